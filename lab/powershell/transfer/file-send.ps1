<#
.SYNOPSIS
Writes a file, from the offset on, to standard output.
.DESCRIPTION
Needs: the file.
Makes: lines 1:BASE64, each a gzip stream of at most 48 KiB of the file.
Returns: bytes, sha256 of the whole file.
Errors: notFound: there is no such file.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path,
    [Parameter(Mandatory)] [long] $Offset
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

if (-not (Test-Path -LiteralPath $Path -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such file' $Path }
$file = [System.IO.File]::Open($Path, 'Open', 'Read', 'ReadWrite')
try {
    $null = $file.Seek($Offset, 'Begin')
    $buffer = [byte[]]::new(49152)
    while (($count = $file.Read($buffer, 0, $buffer.Length)) -gt 0) {
        $packed = [System.IO.MemoryStream]::new()
        $gzip = [System.IO.Compression.GZipStream]::new($packed, [System.IO.Compression.CompressionLevel]::Fastest, $true)
        $gzip.Write($buffer, 0, $count)
        $gzip.Dispose()
        [Console]::Out.Write('1:' + [Convert]::ToBase64String($packed.ToArray()) + "`n")
    }
    $length = $file.Length
} finally {
    $file.Dispose()
}

[pscustomobject]@{ bytes = $length; sha256 = (Get-FileHash -LiteralPath $Path -Algorithm 'SHA256').Hash.ToLowerInvariant() }
