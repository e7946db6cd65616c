<#
.SYNOPSIS
Removes a virtual machine with its checkpoints, disks, seed and folder, however far its making came.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: removed.
Errors: foreign: a machine of this name lacks the mark.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Name,
    [Parameter(Mandatory)] [string] $Node,
    [Parameter(Mandatory)] [string] $Mark,
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

$files = @()
$removed = $false
foreach ($vm in @(Get-VM | Where-Object { $_.Name -eq $Name })) {
    $notes = ([string]$vm.Notes).Trim()
    # Without notes, in the lab's own folder: its making was cut off.
    $unfinished = $notes -eq '' -and (Test-Inside ([string]$vm.Path) $Folder)
    if ($notes -cne "$Mark node=$Node" -and -not $unfinished) {
        Stop-Verb 'foreign' 'a virtual machine of this name exists, and its notes lack the mark' $Name
    }
    $files += @(Get-VMHardDiskDrive -VM $vm | ForEach-Object { [string]$_.Path } | Where-Object { $_ -and (Test-Inside $_ $Folder) })
    if ([string]$vm.State -ne 'Off') { Stop-VM -VM $vm -TurnOff -Force }
    Remove-VM -VM $vm -Force -Confirm:$false
    $removed = $true
}
# The disk of the node, those of its checkpoints (NODE_GUID.avhdx) and its seeds (NODE-HASH.iso).
foreach ($kind in 'disks', 'seeds') {
    $place = Join-Path -Path $Folder -ChildPath $kind
    if (-not (Test-Path -LiteralPath $place)) { continue }
    $files += @(Get-ChildItem -LiteralPath $place -File | Where-Object {
            $_.BaseName -eq $Node -or ($_.Extension -eq '.avhdx' -and $_.BaseName.StartsWith("$($Node)_")) -or
            ($_.Extension -eq '.iso' -and $_.BaseName -match "^$([regex]::Escape($Node))-[0-9a-f]{12}$")
        } | ForEach-Object { $_.FullName })
}
$files += Join-Path -Path $Folder -ChildPath $Name
foreach ($file in @($files | Select-Object -Unique | Where-Object { Test-Path -LiteralPath $_ })) {
    # Hyper-V merges the disks of removed checkpoints, and holds them so long.
    $deadline = [datetime]::UtcNow.AddSeconds(120)
    while (Test-Path -LiteralPath $file) {
        try { Remove-Item -LiteralPath $file -Recurse -Force } catch {
            if ([datetime]::UtcNow -gt $deadline) { throw }
            Start-Sleep -Milliseconds 500
        }
    }
    $removed = $true
}

[pscustomobject]@{ removed = $removed }
