<#
.SYNOPSIS
Tells what a disk image is.
.DESCRIPTION
Needs: the Hyper-V module.
Makes: nothing.
Returns: exists, bytes, sha256 (when asked for), format, type, attached.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path,
    [Parameter(Mandatory)] [bool] $Hash
)

if (-not (Test-Path -LiteralPath $Path -PathType 'Leaf')) {
    return [pscustomobject]@{ exists = $false; bytes = 0; sha256 = ''; format = ''; type = ''; attached = $false }
}
$vhd = Get-VHD -Path $Path
$sum = ''
if ($Hash) { $sum = (Get-FileHash -LiteralPath $Path -Algorithm 'SHA256').Hash.ToLowerInvariant() }

[pscustomobject]@{
    exists   = $true
    bytes    = [long](Get-Item -LiteralPath $Path).Length
    sha256   = $sum
    format   = [string]$vhd.VhdFormat
    type     = [string]$vhd.VhdType
    attached = [bool]$vhd.Attached
}
