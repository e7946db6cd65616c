<#
.SYNOPSIS
Makes the lab's internal switch, and with it the host's adapter on it.
.DESCRIPTION
Needs: the Hyper-V module.
Makes: an internal switch whose notes are the mark.
Returns: changed, what, switch.
Errors: foreign: a switch of this name lacks the mark, or is not internal.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Name,
    [Parameter(Mandatory)] [string] $Mark
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

$what = @()
$vmSwitch = Get-VMSwitch | Where-Object { $_.Name -eq $Name }
if (-not $vmSwitch) {
    $vmSwitch = New-VMSwitch -Name $Name -SwitchType 'Internal' -Notes $Mark
    $what += 'switch'
} elseif (([string]$vmSwitch.Notes).Trim() -cne $Mark -or [string]$vmSwitch.SwitchType -ne 'Internal') {
    Stop-Verb 'foreign' 'a switch of this name exists that lacks the mark, or is not internal' $Name
}

# Windows takes a moment to bring the host's adapter up.
$deadline = [datetime]::UtcNow.AddSeconds(30)
$facts = Get-SwitchFact $vmSwitch
while ($facts.interfaceIndex -eq 0 -and [datetime]::UtcNow -lt $deadline) {
    Start-Sleep -Milliseconds 300
    $facts = Get-SwitchFact $vmSwitch
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what; switch = $facts }
