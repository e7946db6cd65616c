<#
.SYNOPSIS
Removes files and folders below the lab's folder, or the folder itself when none is named.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: removed.
Errors: foreign: the folder lacks the mark's file (l4lab.mark), or a path is not below it.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Folder,
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $Paths
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# Whether a path lies below a folder, both made absolute first.
function Test-Inside([string] $Path, [string] $Folder) {
    $root = [System.IO.Path]::GetFullPath($Folder).TrimEnd('\') + '\'
    [System.IO.Path]::GetFullPath($Path).StartsWith($root, [System.StringComparison]::OrdinalIgnoreCase)
}

if (-not (Test-Path -LiteralPath $Folder)) { return [pscustomobject]@{ removed = $false } }
$file = Join-Path -Path $Folder -ChildPath 'l4lab.mark'
if (-not (Test-Path -LiteralPath $file) -or [System.IO.File]::ReadAllText($file).Trim() -cne $Mark) {
    Stop-Verb 'foreign' 'the folder has no l4lab.mark with the mark' $Folder
}
$targets = @($Paths | Where-Object { $_ } | ForEach-Object { [System.IO.Path]::Combine($Folder, $_) })
foreach ($target in $targets) {
    if (-not (Test-Inside $target $Folder)) { Stop-Verb 'foreign' "this is not below $Folder" $target }
}
if ($targets.Count -eq 0) {
    # The mark goes last: where something holds a file, what is left is still the lab's.
    $targets = @(Get-ChildItem -LiteralPath $Folder -Force | Where-Object { $_.Name -ne 'l4lab.mark' } | ForEach-Object { $_.FullName }) + $Folder
}
$removed = $false
foreach ($target in @($targets | Where-Object { Test-Path -LiteralPath $_ })) {
    Remove-Item -LiteralPath $target -Recurse -Force
    $removed = $true
}

[pscustomobject]@{ removed = $removed }
