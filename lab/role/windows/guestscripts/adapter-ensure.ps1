<#
.SYNOPSIS
Gives an adapter its address and MTU and turns its offloads off.
.DESCRIPTION
Needs: an adapter with this MAC address.
Makes: the adapter's only IPv4 address; no large send offload, receive coalescing or checksum offload.
Returns: changed, what.
Errors: notFound: there is no such adapter, or IPv4 is not bound to it.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $MAC,
    [Parameter(Mandatory)] [string] $Address,
    [Parameter(Mandatory)] [int] $PrefixLength,
    [Parameter(Mandatory)] [int] $MTU
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$adapter = Get-NetAdapter | Where-Object { $_.MacAddress -eq $MAC } | Select-Object -First 1
if (-not $adapter) { Stop-Verb 'notFound' 'there is no adapter with this MAC address' $MAC }
$index = $adapter.ifIndex
$what = @()
if (Get-NetAdapterLso | Where-Object { $_.InterfaceDescription -eq $adapter.InterfaceDescription -and ($_.IPv4Enabled -or $_.IPv6Enabled -or $_.V1IPv4Enabled) }) {
    $adapter | Get-NetAdapterLso | Disable-NetAdapterLso
    $what += 'large send offload off'
}
if (Get-NetAdapterRsc | Where-Object { $_.InterfaceDescription -eq $adapter.InterfaceDescription -and ($_.IPv4Enabled -or $_.IPv6Enabled) }) {
    $adapter | Get-NetAdapterRsc | Disable-NetAdapterRsc
    $what += 'receive coalescing off'
}
$checksum = Get-NetAdapterChecksumOffload | Where-Object { $_.InterfaceDescription -eq $adapter.InterfaceDescription } | Select-Object -First 1
if ($checksum) {
    $states = @($checksum.IpIPv4Enabled, $checksum.TcpIPv4Enabled, $checksum.UdpIPv4Enabled | ForEach-Object { [string]$_ })
    if (@($states | Where-Object { $_ -notin 'Disabled', '0' }).Count -gt 0) {
        $checksum | Disable-NetAdapterChecksumOffload
        $what += 'checksum offload off'
    }
}
# A change of offloads restarts the adapter.
$deadline = [datetime]::UtcNow.AddSeconds(30)
while (-not ($ip = Get-NetIPInterface -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index }) -and [datetime]::UtcNow -lt $deadline) {
    Start-Sleep -Milliseconds 300
}
if (-not $ip) { Stop-Verb 'notFound' 'the adapter has no IPv4' $MAC }
if ([string]$ip.Dhcp -eq 'Enabled') { Set-NetIPInterface -InterfaceIndex $index -AddressFamily 'IPv4' -Dhcp 'Disabled'; $what += 'dhcp off' }
$found = $false
foreach ($now in @(Get-NetIPAddress -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index })) {
    if ($now.IPAddress -eq $Address -and $now.PrefixLength -eq $PrefixLength) { $found = $true; continue }
    $now | Remove-NetIPAddress -Confirm:$false
    $what += "without $($now.IPAddress)/$($now.PrefixLength)"
}
if (-not $found) {
    $null = New-NetIPAddress -InterfaceIndex $index -IPAddress $Address -PrefixLength ([byte]$PrefixLength)
    $what += "address $Address/$PrefixLength"
}
if ([int]$ip.NlMtu -ne $MTU) {
    if ($MTU -gt 1500) {
        # The adapter's own limit counts the Ethernet header, too; 9014 is the largest that Hyper-V's adapters take.
        $adapter | Get-NetAdapterAdvancedProperty -RegistryKeyword '*JumboPacket' | Set-NetAdapterAdvancedProperty -RegistryValue '9014'
    }
    Set-NetIPInterface -InterfaceIndex $index -AddressFamily 'IPv4' -NlMtuBytes ([uint32]$MTU)
    $what += "mtu $($ip.NlMtu) -> $MTU"
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
