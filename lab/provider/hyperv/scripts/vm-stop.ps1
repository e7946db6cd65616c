<#
.SYNOPSIS
Stops a virtual machine by its own shutdown, or turns it off.
.DESCRIPTION
Needs: the machine with the mark; the guest's integration services for a shutdown.
Makes: a machine that is off; a saved state is discarded.
Returns: changed, what.
Errors: notFound: there is no such machine. foreign: it lacks the mark.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $ID,
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [int] $Seconds
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$vm = Get-VM | Where-Object { $_.Id -eq $ID }
if (-not $vm) { Stop-Verb 'notFound' 'there is no virtual machine with this id' $ID }
if (-not ([string]$vm.Notes).StartsWith("$Mark node=")) { Stop-Verb 'foreign' "the notes of virtual machine $($vm.Name) lack the mark" $vm.Name }
$what = @()
if ([string]$vm.State -eq 'Saved') { Remove-VMSavedState -VM $vm; $what += 'saved state discarded' }
if ([string]$vm.State -eq 'Running' -and $Seconds -gt 0) {
    # A job, as Stop-VM waits for the guest as long as Hyper-V does.
    $job = Stop-VM -VM $vm -Force -AsJob
    $deadline = [datetime]::UtcNow.AddSeconds($Seconds)
    while ([string](Get-VM -Id $ID).State -ne 'Off' -and [datetime]::UtcNow -lt $deadline) { Start-Sleep -Milliseconds 500 }
    Remove-Job -Job $job -Force
    $what += 'shut down'
}
if ([string](Get-VM -Id $ID).State -ne 'Off') {
    Stop-VM -VM $vm -TurnOff -Force
    $what += 'turned off'
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
