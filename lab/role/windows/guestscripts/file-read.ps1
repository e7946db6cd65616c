<#
.SYNOPSIS
Reads a piece of a file.
.DESCRIPTION
Needs: the file.
Makes: nothing.
Returns: data (base64), bytes of the whole file.
Errors: notFound: there is no such file.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path,
    [Parameter(Mandatory)] [long] $Offset,
    [Parameter(Mandatory)] [long] $Bytes
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

if (-not (Test-Path -LiteralPath $Path -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such file' $Path }
# What still writes to it may go on.
$file = [System.IO.File]::Open($Path, 'Open', 'Read', 'ReadWrite')
try {
    $length = $file.Length
    $null = $file.Seek([math]::Min($Offset, $length), 'Begin')
    $buffer = [byte[]]::new([math]::Max(0, [math]::Min($Bytes, $length - $Offset)))
    $done = 0
    while ($done -lt $buffer.Length -and ($count = $file.Read($buffer, $done, $buffer.Length - $done)) -gt 0) { $done += $count }
} finally {
    $file.Dispose()
}

[pscustomobject]@{ data = [Convert]::ToBase64String($buffer, 0, $done); bytes = $length }
