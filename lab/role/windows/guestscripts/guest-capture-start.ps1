<#
.SYNOPSIS
Starts a packet capture at the guest's adapters, by pktmon.
.DESCRIPTION
Needs: pktmon (Windows Server 2022, Windows 10 2004).
Makes: a capture of whole frames.
Returns: changed, what.
Errors: inUse: a capture runs already.
#>
[CmdletBinding()]
param()

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$log = "$env:SystemRoot\Temp\l4lab-capture.etl"
if (Test-Path -LiteralPath $log) { Stop-Verb 'inUse' 'a capture was not ended' $log }
$arguments = 'start', '--capture', '--comp', 'nics', '--pkt-size', '0', '--file-name', $log, '--file-size', '1024'
$output = & pktmon.exe @arguments
if ($LASTEXITCODE -ne 0) { Stop-Verb 'inUse' "pktmon did not start, perhaps as it runs already (pktmon status): $output" $log }

[pscustomobject]@{ changed = $true; what = @('capture') }
