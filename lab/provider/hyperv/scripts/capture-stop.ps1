<#
.SYNOPSIS
Ends the lab's capture and makes a pcapng file of each place.
.DESCRIPTION
Needs: a capture that capture-start began.
Makes: PLACE.pcapng in the lab's folder.
Returns: files: id, path, dropped each.
Errors: notFound: the lab has no capture.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [string] $Folder
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

function Invoke-Pktmon([string[]] $Arguments) {
    $output = & pktmon.exe @Arguments
    if ($LASTEXITCODE -ne 0) { throw "pktmon.exe $($Arguments[0]) ended with exit code $($LASTEXITCODE): $output" }
    $output -join "`n"
}

$captures = Join-Path -Path $Folder -ChildPath 'captures'
$memory = Join-Path -Path $captures -ChildPath 'capture.json'
if (-not (Test-Path -LiteralPath $memory)) { Stop-Verb 'notFound' 'the lab has no capture' $memory }
$capture = ConvertFrom-Json -InputObject ([System.IO.File]::ReadAllText($memory))
if ($capture.mark -cne $Mark) { Stop-Verb 'notFound' 'the capture is of another lab' $memory }
$text = Invoke-Pktmon @('stop')
# "(12 events lost)"; the count is of the log, not of one place.
$dropped = [long]0
if ($text -match '(\d+) events? lost') { $dropped = [long]$Matches[1] }
$files = @()
foreach ($place in @($capture.places)) {
    $path = Join-Path -Path $captures -ChildPath ('{0}.pcapng' -f $(if ($place.id) { $place.id } else { 'host' }))
    if (Test-Path -LiteralPath $path) { Remove-Item -LiteralPath $path -Force }
    $null = Invoke-Pktmon @('etl2pcap', [string]$capture.log, '--out', $path, '--component-id', [string]$place.component)
    $files += [pscustomobject]@{ id = [string]$place.id; path = $path; dropped = $dropped }
}
Remove-Item -LiteralPath $memory -Force
Remove-Item -LiteralPath $capture.log -Force

[pscustomobject]@{ files = $files }
