<#
.SYNOPSIS
Removes the forwards that the lab's folder remembers.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: removed.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Folder
)

$file = Join-Path -Path $Folder -ChildPath 'portproxies.json'
if (-not (Test-Path -LiteralPath $file)) { return [pscustomobject]@{ removed = $false } }
$removed = $false
$key = 'HKLM:\SYSTEM\CurrentControlSet\Services\PortProxy\v4tov4\tcp'
foreach ($proxy in @((ConvertFrom-Json -InputObject ([System.IO.File]::ReadAllText($file))).proxies)) {
    $now = if (Test-Path -LiteralPath $key) { [string](Get-Item -LiteralPath $key).GetValue("$($proxy.listenAddress)/$($proxy.listenPort)") } else { '' }
    # One that leads elsewhere by now is somebody else's.
    if ($now -ne "$($proxy.connectAddress)/$($proxy.connectPort)") { continue }
    $arguments = 'interface', 'portproxy', 'delete', 'v4tov4', "listenaddress=$($proxy.listenAddress)", "listenport=$($proxy.listenPort)", 'protocol=tcp'
    $output = & netsh.exe @arguments
    if ($LASTEXITCODE -ne 0) { throw "netsh.exe ended with exit code $($LASTEXITCODE): $output" }
    $removed = $true
}
Remove-Item -LiteralPath $file -Force

[pscustomobject]@{ removed = $removed }
