<#
.SYNOPSIS
Writes a small file whole, or not at all.
.DESCRIPTION
Needs: nothing.
Makes: the file, and missing folders.
Returns: changed, what.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path,
    [Parameter(Mandatory)] [AllowEmptyString()] [string] $Data
)

$content = [Convert]::FromBase64String($Data)
if ((Test-Path -LiteralPath $Path -PathType 'Leaf') -and (Get-Item -LiteralPath $Path).Length -eq $content.Length -and
    [Convert]::ToBase64String([System.IO.File]::ReadAllBytes($Path)) -ceq $Data) {
    return [pscustomobject]@{ changed = $false; what = @() }
}
$null = [System.IO.Directory]::CreateDirectory([System.IO.Path]::GetDirectoryName($Path))
[System.IO.File]::WriteAllBytes("$Path.part", $content)
Move-Item -LiteralPath "$Path.part" -Destination $Path -Force

[pscustomobject]@{ changed = $true; what = @('file') }
