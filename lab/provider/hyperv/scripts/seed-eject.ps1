<#
.SYNOPSIS
Takes the seed out of a machine's DVD drive.
.DESCRIPTION
Needs: the machine with the mark.
Makes: an empty drive.
Returns: changed, what.
Errors: notFound: there is no such machine. foreign: it lacks the mark.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $ID,
    [Parameter(Mandatory)] [string] $Mark
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$vm = Get-VM | Where-Object { $_.Id -eq $ID }
if (-not $vm) { Stop-Verb 'notFound' 'there is no virtual machine with this id' $ID }
if (-not ([string]$vm.Notes).StartsWith("$Mark node=")) { Stop-Verb 'foreign' "the notes of virtual machine $($vm.Name) lack the mark" $vm.Name }
$what = @()
foreach ($drive in @(Get-VMDvdDrive -VM $vm | Where-Object { $_.Path })) {
    Set-VMDvdDrive -VMDvdDrive $drive -Path $null
    $what += 'seed ejected'
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
