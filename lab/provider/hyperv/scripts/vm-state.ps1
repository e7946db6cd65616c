<#
.SYNOPSIS
Tells what a virtual machine does now.
.DESCRIPTION
Needs: the machine with the mark.
Makes: nothing.
Returns: state, heartbeat, uptimeSeconds.
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

[pscustomobject]@{
    state         = [string]$vm.State
    heartbeat     = $(if ([string]$vm.State -eq 'Off') { '' } else { [string]$vm.Heartbeat })
    uptimeSeconds = [long]$vm.Uptime.TotalSeconds
}
