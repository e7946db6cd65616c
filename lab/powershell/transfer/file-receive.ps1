<#
.SYNOPSIS
Takes a file, or the rest of one, from standard input.
.DESCRIPTION
Needs: lines of base64 that make one gzip stream of the file from the offset on, and an empty line.
Makes: PATH.part, which becomes PATH when its hash is right; missing folders.
Returns: bytes.
Errors: hashMismatch: what came is not the file; of an upload that was cut off the part is kept. noSpace: the drive is full.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path,
    [Parameter(Mandatory)] [long] $Offset,
    [Parameter(Mandatory)] [long] $Bytes,
    [Parameter(Mandatory)] [string] $SHA256
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$part = "$Path.part"
$null = [System.IO.Directory]::CreateDirectory([System.IO.Path]::GetDirectoryName($Path))
$free = [System.IO.DriveInfo]::new([System.IO.Path]::GetPathRoot($Path)).AvailableFreeSpace
if ($free -lt $Bytes - $Offset) { Stop-Verb 'noSpace' "the drive has $free bytes left" $Path }
$file = [System.IO.File]::Open($part, 'OpenOrCreate', 'ReadWrite', 'Read')
try {
    if ($file.Length -lt $Offset) { Stop-Verb 'hashMismatch' "the part has $($file.Length) bytes, not $Offset" $part }
    $file.SetLength($Offset)
    $null = $file.Seek($Offset, 'Begin')
    # The stream is fed a line at a time and read until it wants more.
    $feed = [System.IO.MemoryStream]::new()
    $gzip = [System.IO.Compression.GZipStream]::new($feed, 'Decompress')
    $buffer = [byte[]]::new(65536)
    while ($line = $StandardInput.ReadLine()) {
        $data = [Convert]::FromBase64String($line)
        $feed.SetLength(0)
        $feed.Write($data, 0, $data.Length)
        $feed.Position = 0
        while (($count = $gzip.Read($buffer, 0, $buffer.Length)) -gt 0) { $file.Write($buffer, 0, $count) }
    }
    $length = $file.Length
} catch [System.IO.IOException] {
    # ERROR_DISK_FULL
    if ($_.Exception.GetBaseException().HResult -eq 0x80070070) { Stop-Verb 'noSpace' $_.Exception.Message $Path }
    throw
} finally {
    $file.Dispose()
}
if ($length -lt $Bytes) { Stop-Verb 'hashMismatch' "the upload ended at $length of $Bytes bytes" $part }
$sum = (Get-FileHash -LiteralPath $part -Algorithm 'SHA256').Hash
if ($length -ne $Bytes -or $sum -ne $SHA256) {
    Remove-Item -LiteralPath $part -Force
    Stop-Verb 'hashMismatch' "what came has $length bytes and SHA-256 $($sum.ToLowerInvariant())" $Path
}
Move-Item -LiteralPath $part -Destination $Path -Force

[pscustomobject]@{ bytes = $length }
