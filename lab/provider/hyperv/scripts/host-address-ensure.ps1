<#
.SYNOPSIS
Gives the host's adapter on the lab's switch its addresses and MTU.
.DESCRIPTION
Needs: the switch with the mark.
Makes: the adapter's IPv4 addresses, exactly these; DHCP is turned off on it.
Returns: changed, what, switch.
Errors: notFound: there is no such switch, or no adapter of the host on it. foreign: the switch lacks the mark, or another adapter has the address.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Switch,
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $Addresses,
    [Parameter(Mandatory)] [int] $MTU
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# What there is of the switch and of the host's adapter on it, which is known by its MAC address.
function Get-SwitchFact([object] $VMSwitch) {
    $mac = [string](Get-VMNetworkAdapter -ManagementOS -SwitchName $VMSwitch.Name | Select-Object -First 1 | ForEach-Object { $_.MacAddress })
    $adapter = Get-NetAdapter -IncludeHidden | Where-Object {
        $mac -and ([string]$_.MacAddress).Replace('-', '') -eq $mac -and $_.InterfaceDescription -like 'Hyper-V Virtual Ethernet*'
    } | Select-Object -First 1
    $index = if ($adapter) { [int]$adapter.ifIndex } else { 0 }
    [pscustomobject]@{
        name           = [string]$VMSwitch.Name
        id             = [string]$VMSwitch.Id
        type           = [string]$VMSwitch.SwitchType
        interfaceIndex = $index
        mac            = $(if ($adapter) { [string]$adapter.MacAddress } else { '' })
        mtu            = [int](Get-NetIPInterface -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index } | ForEach-Object { $_.NlMtu })
        addresses      = @(Get-NetIPAddress -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index } |
                ForEach-Object { '{0}/{1}' -f $_.IPAddress, $_.PrefixLength })
        routes         = @(Get-NetRoute -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index -and $_.NextHop -ne '0.0.0.0' } |
                ForEach-Object { [pscustomobject]@{ destination = [string]$_.DestinationPrefix; via = [string]$_.NextHop } })
    }
}

$vmSwitch = Get-VMSwitch | Where-Object { $_.Name -eq $Switch }
if (-not $vmSwitch) { Stop-Verb 'notFound' 'there is no switch of this name' $Switch }
if (([string]$vmSwitch.Notes).Trim() -cne $Mark) { Stop-Verb 'foreign' 'a switch of this name exists, and its notes lack the mark' $Switch }

$what = @()
$facts = Get-SwitchFact $vmSwitch
if ($facts.interfaceIndex -eq 0) { Stop-Verb 'notFound' 'the host has no adapter on this switch' $Switch }
$ip = Get-NetIPInterface -InterfaceIndex $facts.interfaceIndex -AddressFamily 'IPv4'
if ([string]$ip.Dhcp -eq 'Enabled') {
    # Else an address of its own invention (169.254.0.0/16) comes back.
    Set-NetIPInterface -InterfaceIndex $facts.interfaceIndex -AddressFamily 'IPv4' -Dhcp 'Disabled'
    $what += 'dhcp off'
}
foreach ($address in @($facts.addresses | Where-Object { $Addresses -notcontains $_ })) {
    Remove-NetIPAddress -InterfaceIndex $facts.interfaceIndex -IPAddress ($address -split '/')[0] -Confirm:$false
    $what += "without $address"
}
foreach ($address in @($Addresses | Where-Object { $_ -and $facts.addresses -notcontains $_ })) {
    $host4, $length = $address -split '/'
    $other = @(Get-NetIPAddress -AddressFamily 'IPv4' | Where-Object { $_.IPAddress -eq $host4 -and $_.InterfaceIndex -ne $facts.interfaceIndex })
    if ($other.Count -gt 0) { Stop-Verb 'foreign' "adapter $($other[0].InterfaceAlias) has this address" $address }
    $null = New-NetIPAddress -InterfaceIndex $facts.interfaceIndex -IPAddress $host4 -PrefixLength ([byte]$length)
    $what += "address $address"
}
if ($facts.mtu -ne $MTU) {
    if ($MTU -gt 1500) {
        # The adapter's own limit counts the Ethernet header, too; 9014 is the largest that Hyper-V's adapters take.
        Get-NetAdapter -IncludeHidden | Where-Object { $_.ifIndex -eq $facts.interfaceIndex } |
            Get-NetAdapterAdvancedProperty -RegistryKeyword '*JumboPacket' |
            Set-NetAdapterAdvancedProperty -RegistryValue '9014'
    }
    Set-NetIPInterface -InterfaceIndex $facts.interfaceIndex -AddressFamily 'IPv4' -NlMtuBytes ([uint32]$MTU)
    $what += "mtu $($facts.mtu) -> $MTU"
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what; switch = (Get-SwitchFact $vmSwitch) }
