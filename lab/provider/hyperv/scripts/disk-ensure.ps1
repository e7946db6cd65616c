<#
.SYNOPSIS
Makes a differencing disk; its parent is only read.
.DESCRIPTION
Needs: the parent on the host.
Makes: a VHDX in the lab's folder, and missing folders.
Returns: changed, what.
Errors: notFound: there is no parent. foreign: the path is not below the lab's folder, or a disk of another parent is there. noSpace: the drive is full.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path,
    [Parameter(Mandatory)] [string] $Parent,
    [Parameter(Mandatory)] [string] $Folder
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# Whether a path lies below a folder, both made absolute first.
function Test-Inside([string] $Path, [string] $Folder) {
    $root = [System.IO.Path]::GetFullPath($Folder).TrimEnd('\') + '\'
    [System.IO.Path]::GetFullPath($Path).StartsWith($root, [System.StringComparison]::OrdinalIgnoreCase)
}

if (-not (Test-Inside $Path $Folder)) { Stop-Verb 'foreign' "the disk would not be below $Folder" $Path }
if (-not (Test-Path -LiteralPath $Parent -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such parent disk' $Parent }
if (Test-Path -LiteralPath $Path) {
    $found = [string](Get-VHD -Path $Path).ParentPath
    if ($found -ne [System.IO.Path]::GetFullPath($Parent)) { Stop-Verb 'foreign' "a disk whose parent is '$found' is there" $Path }
    return [pscustomobject]@{ changed = $false; what = @() }
}
try {
    $null = [System.IO.Directory]::CreateDirectory([System.IO.Path]::GetDirectoryName($Path))
    $null = New-VHD -Path $Path -ParentPath $Parent -Differencing
} catch {
    # ERROR_DISK_FULL
    if ($_.Exception.GetBaseException().HResult -eq 0x80070070) { Stop-Verb 'noSpace' $_.Exception.Message $Path }
    throw
}

[pscustomobject]@{ changed = $true; what = @('disk') }
