<#
.SYNOPSIS
Removes a file.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: changed, what.
Errors: inUse: a program has the file open.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

if (-not (Test-Path -LiteralPath $Path)) { return [pscustomobject]@{ changed = $false; what = @() } }
try {
    [System.IO.File]::Delete($Path)
} catch {
    # ERROR_SHARING_VIOLATION; a program that runs gives ERROR_ACCESS_DENIED.
    if ($_.Exception.GetBaseException().HResult -in 0x80070020, 0x80070005) { Stop-Verb 'inUse' $_.Exception.Message $Path }
    throw
}

[pscustomobject]@{ changed = $true; what = @('file removed') }
