<#
.SYNOPSIS
Gives the loopback its virtual addresses, and turns weak host send and receive on.
.DESCRIPTION
Needs: an adapter with this MAC address; for kmtest a KM-TEST loopback adapter.
Makes: the loopback's addresses besides 127.0.0.0/8, each /32, never a source by themselves.
Returns: changed, what.
Errors: notFound: there is no such adapter or loopback.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $Addresses,
    [Parameter(Mandatory)] [string] $MAC,
    [Parameter(Mandatory)] [string] $Loopback
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$adapter = Get-NetAdapter | Where-Object { $_.MacAddress -eq $MAC } | Select-Object -First 1
if (-not $adapter) { Stop-Verb 'notFound' 'there is no adapter with this MAC address' $MAC }
if ($Loopback -eq 'kmtest') {
    $index = Get-NetAdapter -IncludeHidden | Where-Object { $_.InterfaceDescription -like 'Microsoft KM-TEST Loopback*' } |
        Select-Object -First 1 | ForEach-Object { $_.ifIndex }
} else {
    # By its address: the name could be localised.
    $index = Get-NetIPAddress -AddressFamily 'IPv4' | Where-Object { $_.IPAddress -eq '127.0.0.1' } |
        Select-Object -First 1 | ForEach-Object { $_.InterfaceIndex }
}
if (-not $index) { Stop-Verb 'notFound' 'there is no such loopback' $Loopback }
$what = @()
$found = @()
foreach ($now in @(Get-NetIPAddress -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index -and -not $_.IPAddress.StartsWith('127.') })) {
    if ($Addresses -contains $now.IPAddress) { $found += $now.IPAddress; continue }
    $now | Remove-NetIPAddress -Confirm:$false
    $what += "without $($now.IPAddress)"
}
foreach ($address in @($Addresses | Where-Object { $_ -and $found -notcontains $_ })) {
    $null = New-NetIPAddress -InterfaceIndex $index -IPAddress $address -PrefixLength 32 -SkipAsSource $true
    $what += "address $address"
}
foreach ($ip in @(Get-NetIPInterface -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index -or $_.InterfaceIndex -eq $adapter.ifIndex })) {
    if ([string]$ip.WeakHostSend -eq 'Enabled' -and [string]$ip.WeakHostReceive -eq 'Enabled') { continue }
    Set-NetIPInterface -InterfaceIndex $ip.InterfaceIndex -AddressFamily 'IPv4' -WeakHostSend 'Enabled' -WeakHostReceive 'Enabled'
    $what += "weak host on interface $($ip.InterfaceIndex)"
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
