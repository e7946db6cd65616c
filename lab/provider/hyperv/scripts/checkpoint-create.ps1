<#
.SYNOPSIS
Makes a checkpoint; one of this name that is there already stays.
.DESCRIPTION
Needs: the machine with the mark.
Makes: a checkpoint.
Returns: changed, what.
Errors: notFound: there is no such machine. foreign: it lacks the mark. noSpace: the drive is full.
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
if (Get-VMSnapshot -VM $vm | Where-Object { $_.Name -eq $Name }) { return [pscustomobject]@{ changed = $false; what = @() } }
try {
    Checkpoint-VM -VM $vm -SnapshotName $Name
} catch {
    # ERROR_DISK_FULL
    if ($_.Exception.GetBaseException().HResult -eq 0x80070070) { Stop-Verb 'noSpace' $_.Exception.Message $vm.Name }
    throw
}

[pscustomobject]@{ changed = $true; what = @('checkpoint') }
