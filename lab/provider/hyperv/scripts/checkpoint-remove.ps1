<#
.SYNOPSIS
Removes the checkpoints of a name.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: removed.
Errors: notFound: there is no such machine. foreign: it lacks the mark.
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
$checkpoints = @(Get-VMSnapshot -VM $vm | Where-Object { $_.Name -eq $Name })
foreach ($checkpoint in $checkpoints) { Remove-VMSnapshot -VMSnapshot $checkpoint -Confirm:$false }

[pscustomobject]@{ removed = $checkpoints.Count -gt 0 }
