<#
.SYNOPSIS
Tells what is there of a file.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: exists, bytes, sha256.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path
)

if (-not (Test-Path -LiteralPath $Path -PathType 'Leaf')) { return [pscustomobject]@{ exists = $false; bytes = 0; sha256 = '' } }

[pscustomobject]@{
    exists = $true
    bytes  = [long](Get-Item -LiteralPath $Path).Length
    sha256 = (Get-FileHash -LiteralPath $Path -Algorithm 'SHA256').Hash.ToLowerInvariant()
}
