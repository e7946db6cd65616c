<#
.SYNOPSIS
Tells what is there of a file, and of an upload that was cut off.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: exists, bytes, sha256, partBytes, partSHA256, beside.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path
)

function Get-FileFact([string] $Name) {
    if (-not (Test-Path -LiteralPath $Name -PathType 'Leaf')) { return [pscustomobject]@{ exists = $false; bytes = [long]0; sum = '' } }
    [pscustomobject]@{
        exists = $true
        bytes  = [long](Get-Item -LiteralPath $Name).Length
        sum    = (Get-FileHash -LiteralPath $Name -Algorithm 'SHA256').Hash.ToLowerInvariant()
    }
}

$whole = Get-FileFact $Path
$part = Get-FileFact "$Path.part"
$folder = [System.IO.Path]::GetDirectoryName($Path)
$own = [System.IO.Path]::GetFileName($Path)
$beside = @()
if (Test-Path -LiteralPath $folder -PathType 'Container') {
    $beside = @(Get-ChildItem -LiteralPath $folder -Force | Where-Object { $_.Name -ne $own -and $_.Name -ne "$own.part" })
}

[pscustomobject]@{
    exists     = $whole.exists
    bytes      = $whole.bytes
    sha256     = $whole.sum
    partBytes  = $part.bytes
    partSHA256 = $part.sum
    beside     = $beside.Count
}
