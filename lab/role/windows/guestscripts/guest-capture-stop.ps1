<#
.SYNOPSIS
Ends the guest's capture and makes a pcapng file of it.
.DESCRIPTION
Needs: a capture that guest-capture-start began.
Makes: the file.
Returns: dropped.
Errors: notFound: there is no capture.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$log = "$env:SystemRoot\Temp\l4lab-capture.etl"
$stop = @('stop')
$text = (& pktmon.exe @stop) -join "`n"
$code = $LASTEXITCODE
if (-not (Test-Path -LiteralPath $log)) { Stop-Verb 'notFound' "there is no capture (pktmon stop: exit code $code)" $log }
# "(12 events lost)"
$dropped = [long]0
if ($text -match '(\d+) events? lost') { $dropped = [long]$Matches[1] }
$null = [System.IO.Directory]::CreateDirectory([System.IO.Path]::GetDirectoryName($Path))
if (Test-Path -LiteralPath $Path) { Remove-Item -LiteralPath $Path -Force }
$arguments = 'etl2pcap', $log, '--out', $Path
$output = & pktmon.exe @arguments
if ($LASTEXITCODE -ne 0) { throw "pktmon.exe etl2pcap ended with exit code $($LASTEXITCODE): $output" }
Remove-Item -LiteralPath $log -Force

[pscustomobject]@{ dropped = $dropped }
