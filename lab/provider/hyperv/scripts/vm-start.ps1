<#
.SYNOPSIS
Turns a virtual machine on; does not wait for its system.
.DESCRIPTION
Needs: the machine with the mark.
Makes: a running machine.
Returns: changed, what.
Errors: notFound: there is no such machine. foreign: it lacks the mark. noMemory: the host has too little memory left.
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
if ([string]$vm.State -in 'Running', 'Starting') { return [pscustomobject]@{ changed = $false; what = @() } }
try {
    Start-VM -VM $vm
} catch {
    # ErrorIdentifier.OutOfMemory of the Hyper-V module, or E_OUTOFMEMORY.
    if ($_.FullyQualifiedErrorId -like 'OutOfMemory*' -or $_.Exception.GetBaseException().HResult -eq 0x8007000E) {
        Stop-Verb 'noMemory' $_.Exception.Message $vm.Name
    }
    throw
}

[pscustomobject]@{ changed = $true; what = @('started') }
