<#
.SYNOPSIS
Copies a file of the host into a Windows guest.
.DESCRIPTION
Needs: a running guest, and the file.
Makes: the file in the guest, and missing folders.
Returns: changed, what.
Errors: notFound: there is no such machine or file. foreign: it lacks the mark. guestAuth: the guest refused the credentials.
    guestNotReady: it does not answer yet. hashMismatch: the file, or its copy, is not the one that was meant.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $ID,
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [psobject] $Credential,
    [Parameter(Mandatory)] [string] $HostPath,
    [Parameter(Mandatory)] [string] $GuestPath,
    [Parameter(Mandatory)] [string] $SHA256
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# A session in the guest by PowerShell Direct.
function New-GuestSession {
    if ([string]$vm.State -ne 'Running') { Stop-Verb 'guestNotReady' "virtual machine $($vm.Name) is $($vm.State)" $vm.Name }
    $secret = [System.Net.NetworkCredential]::new('', $Credential.password).SecurePassword
    try {
        New-PSSession -VMId $vm.Id -Credential ([pscredential]::new($Credential.user, $secret))
    } catch {
        # A class of its own or, where it has none, the text (of an English host).
        $kinds = @()
        for ($cause = $_.Exception; $cause; $cause = $cause.InnerException) { $kinds += $cause.GetType().Name }
        if ($kinds -contains 'PSDirectCredentialException' -or $_.Exception.Message -match 'credential|password') {
            Stop-Verb 'guestAuth' $_.Exception.Message $vm.Name
        }
        Stop-Verb 'guestNotReady' $_.Exception.Message $vm.Name
    }
}

$vm = Get-VM | Where-Object { $_.Id -eq $ID }
if (-not $vm) { Stop-Verb 'notFound' 'there is no virtual machine with this id' $ID }
if (-not ([string]$vm.Notes).StartsWith("$Mark node=")) { Stop-Verb 'foreign' "the notes of virtual machine $($vm.Name) lack the mark" $vm.Name }
if (-not (Test-Path -LiteralPath $HostPath -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such file on the host' $HostPath }
if ((Get-FileHash -LiteralPath $HostPath -Algorithm 'SHA256').Hash -ne $SHA256) { Stop-Verb 'hashMismatch' 'the file on the host has another SHA-256' $HostPath }
$remoteSum = {
    param($Path)
    if (Test-Path -LiteralPath $Path -PathType 'Leaf') { (Get-FileHash -LiteralPath $Path -Algorithm 'SHA256').Hash }
}
$session = New-GuestSession
try {
    $now = [string](Invoke-Command -Session $session -ScriptBlock $remoteSum -ArgumentList $GuestPath)
    if ($now -eq $SHA256) { return [pscustomobject]@{ changed = $false; what = @() } }
    Invoke-Command -Session $session -ArgumentList $GuestPath -ScriptBlock {
        param($Path)
        $null = [System.IO.Directory]::CreateDirectory([System.IO.Path]::GetDirectoryName($Path))
    }
    Copy-Item -LiteralPath $HostPath -Destination $GuestPath -ToSession $session -Force
    $now = [string](Invoke-Command -Session $session -ScriptBlock $remoteSum -ArgumentList $GuestPath)
    if ($now -ne $SHA256) { Stop-Verb 'hashMismatch' 'the copy in the guest has another SHA-256' $GuestPath }
} finally {
    Remove-PSSession -Session $session
}

[pscustomobject]@{ changed = $true; what = @('file') }
