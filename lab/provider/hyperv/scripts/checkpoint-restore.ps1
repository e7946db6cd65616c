<#
.SYNOPSIS
Puts a machine back to a checkpoint; what it did since is lost.
.DESCRIPTION
Needs: the machine with the mark.
Makes: the machine as it was, off when the checkpoint was taken off.
Returns: changed, what.
Errors: notFound: there is no such machine or checkpoint. foreign: it lacks the mark.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $ID,
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [string] $Name
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$vm = Get-VM | Where-Object { $_.Id -eq $ID }
if (-not $vm) { Stop-Verb 'notFound' 'there is no virtual machine with this id' $ID }
if (-not ([string]$vm.Notes).StartsWith("$Mark node=")) { Stop-Verb 'foreign' "the notes of virtual machine $($vm.Name) lack the mark" $vm.Name }
$checkpoint = Get-VMSnapshot -VM $vm | Where-Object { $_.Name -eq $Name } | Select-Object -First 1
if (-not $checkpoint) { Stop-Verb 'notFound' "virtual machine $($vm.Name) has no such checkpoint" $Name }
Restore-VMSnapshot -VMSnapshot $checkpoint -Confirm:$false

[pscustomobject]@{ changed = $true; what = @('restored') }
