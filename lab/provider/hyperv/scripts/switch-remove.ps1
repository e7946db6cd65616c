<#
.SYNOPSIS
Removes the lab's switch, and with it the host's adapter on it.
.DESCRIPTION
Needs: the Hyper-V module.
Makes: nothing.
Returns: removed.
Errors: foreign: the switch lacks the mark. inUse: virtual machines are connected to it.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Name,
    [Parameter(Mandatory)] [string] $Mark
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$vmSwitch = Get-VMSwitch | Where-Object { $_.Name -eq $Name }
if (-not $vmSwitch) { return [pscustomobject]@{ removed = $false } }
if (([string]$vmSwitch.Notes).Trim() -cne $Mark) {
    Stop-Verb 'foreign' 'a switch of this name exists, and its notes lack the mark' $Name
}
# Hyper-V would remove it all the same and leave the adapters unconnected.
$connected = @(Get-VM | Get-VMNetworkAdapter | Where-Object { $_.SwitchName -eq $Name } | ForEach-Object { $_.VMName })
if ($connected.Count -gt 0) { Stop-Verb 'inUse' "connected to the switch: $($connected -join ', ')" $Name }
Remove-VMSwitch -VMSwitch $vmSwitch -Force -Confirm:$false

[pscustomobject]@{ removed = $true }
