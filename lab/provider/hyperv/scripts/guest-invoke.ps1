<#
.SYNOPSIS
Runs a script in a Windows guest by PowerShell Direct, in the manner of the bootstrap.
.DESCRIPTION
Needs: a running guest.
Makes: nothing itself.
Returns: ok, result, error: what the guest's script returned, or its error.
Errors: notFound: there is no such machine. foreign: it lacks the mark. guestAuth: the guest refused the credentials.
    guestNotReady: it does not answer yet.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $ID,
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [psobject] $Credential,
    [Parameter(Mandatory)] [string] $Script,
    [Parameter(Mandatory)] [AllowNull()] [Alias('Input')] [psobject] $Parameters
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
$utf8 = [System.Text.UTF8Encoding]::new($false)
$text = $utf8.GetString([Convert]::FromBase64String($Script))
$json = if ($null -eq $Parameters) { '{}' } else { ConvertTo-Json -InputObject $Parameters -Depth 12 -Compress }
$session = New-GuestSession
try {
    $answer = Invoke-Command -Session $session -ArgumentList $text, $json -ScriptBlock {
        param($Text, $Json)
        $global:ErrorActionPreference = 'Stop'
        $global:ProgressPreference = 'SilentlyContinue'
        Set-StrictMode -Version Latest
        try {
            $splat = @{}
            foreach ($property in (ConvertFrom-Json -InputObject $Json).PSObject.Properties) { $splat[$property.Name] = $property.Value }
            $block = [scriptblock]::Create($Text)
            ConvertTo-Json -InputObject ([ordered]@{ ok = $true; result = (& $block @splat) }) -Depth 12 -Compress
        } catch {
            $code = ([string]$_.FullyQualifiedErrorId -split ',')[0]
            # What was thrown without an id has its message there.
            if ($code -match '\s') { $code = $_.Exception.GetType().Name }
            $failure = [ordered]@{
                code    = $code
                message = $_.Exception.Message
                target  = [string]$_.TargetObject
            }
            ConvertTo-Json -InputObject ([ordered]@{ ok = $false; error = $failure }) -Compress
        }
    }
} catch [System.Management.Automation.Remoting.PSRemotingTransportException] {
    Stop-Verb 'guestNotReady' "the session ended: $($_.Exception.Message)" $vm.Name
} finally {
    Remove-PSSession -Session $session
}
$envelope = ConvertFrom-Json -InputObject ([string]$answer)

if ($envelope.ok) { return [pscustomobject]@{ ok = $true; result = $envelope.result } }
[pscustomobject]@{ ok = $false; error = $envelope.error }
