<#
.SYNOPSIS
Forwards a port of the host to one of a guest.
.DESCRIPTION
Needs: the IP Helper service, and the lab's folder, which remembers the forward.
Makes: a v4tov4 port proxy.
Returns: changed, what.
Errors: foreign: the port is forwarded already, and not by the lab.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [AllowEmptyString()] [string] $ListenAddress,
    [Parameter(Mandatory)] [int] $ListenPort,
    [Parameter(Mandatory)] [string] $ConnectAddress,
    [Parameter(Mandatory)] [int] $ConnectPort,
    [Parameter(Mandatory)] [string] $Folder
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

if (-not $ListenAddress) {
    # The address of the best default route: WinRM does not tell which one it was reached at.
    $default = Get-NetRoute -AddressFamily 'IPv4' | Where-Object { $_.DestinationPrefix -eq '0.0.0.0/0' } |
        Sort-Object -Property { $_.RouteMetric + $_.InterfaceMetric } | Select-Object -First 1
    if (-not $default) { Stop-Verb 'foreign' 'the host has no default route, so name the address to listen at' '' }
    $ListenAddress = [string](Get-NetIPAddress -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $default.InterfaceIndex } |
            Select-Object -First 1).IPAddress
}
$wanted = [pscustomobject]@{ listenAddress = $ListenAddress; listenPort = $ListenPort; connectAddress = $ConnectAddress; connectPort = $ConnectPort }
$file = Join-Path -Path $Folder -ChildPath 'portproxies.json'
$proxies = @()
if (Test-Path -LiteralPath $file) { $proxies = @((ConvertFrom-Json -InputObject ([System.IO.File]::ReadAllText($file))).proxies) }
$ours = @($proxies | Where-Object { $_.listenAddress -eq $ListenAddress -and $_.listenPort -eq $ListenPort })
# The proxies' own store: what netsh shows is localised.
$key = 'HKLM:\SYSTEM\CurrentControlSet\Services\PortProxy\v4tov4\tcp'
$now = if (Test-Path -LiteralPath $key) { [string](Get-Item -LiteralPath $key).GetValue("$ListenAddress/$ListenPort") } else { '' }
if ($now -and $ours.Count -eq 0) { Stop-Verb 'foreign' "the port is forwarded to $now already" "$($ListenAddress):$ListenPort" }
if ($now -eq "$ConnectAddress/$ConnectPort") { return [pscustomobject]@{ changed = $false; what = @() } }

# Remembered before it is made: a forward that nobody remembers would stay.
$proxies = @($proxies | Where-Object { $ours -notcontains $_ }) + $wanted
$null = [System.IO.Directory]::CreateDirectory($Folder)
[System.IO.File]::WriteAllText($file, (ConvertTo-Json -InputObject @{ proxies = $proxies } -Depth 4))
$arguments = 'interface', 'portproxy', 'set', 'v4tov4', "listenaddress=$ListenAddress", "listenport=$ListenPort",
    "connectaddress=$ConnectAddress", "connectport=$ConnectPort", 'protocol=tcp'
if (-not $now) { $arguments[2] = 'add' }
$output = & netsh.exe @arguments
if ($LASTEXITCODE -ne 0) { throw "netsh.exe ended with exit code $($LASTEXITCODE): $output" }

[pscustomobject]@{ changed = $true; what = @("$($ListenAddress):$ListenPort -> $($ConnectAddress):$ConnectPort") }
