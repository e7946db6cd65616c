<#
.SYNOPSIS
Puts an answer file into an offline Windows disk, where Windows Setup looks for it (Windows\Panther).
.DESCRIPTION
Needs: a disk that no machine uses, with Windows on it.
Makes: Windows\Panther\unattend.xml on the disk.
Returns: changed, what.
Errors: notFound: there is no such disk, or no Windows on it. inUse: the disk is attached.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Disk,
    [Parameter(Mandatory)] [string] $Content
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

if (-not (Test-Path -LiteralPath $Disk -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such disk' $Disk }
if ((Get-VHD -Path $Disk).Attached) { Stop-Verb 'inUse' 'the disk is attached' $Disk }
$bytes = [Convert]::FromBase64String($Content)
$what = @()
$done = $false
try {
    Mount-VHD -Path $Disk
    $number = (Get-VHD -Path $Disk).DiskNumber
    foreach ($partition in @(Get-Partition -DiskNumber $number | Where-Object { [string]$_.Type -eq 'Basic' })) {
        if (-not [char]::IsLetter([char]$partition.DriveLetter)) {
            $partition | Add-PartitionAccessPath -AssignDriveLetter
            $partition = Get-Partition -DiskNumber $number -PartitionNumber $partition.PartitionNumber
        }
        $windows = '{0}:\Windows' -f $partition.DriveLetter
        if (-not (Test-Path -LiteralPath "$windows\System32\ntoskrnl.exe")) { continue }
        $done = $true
        $target = "$windows\Panther\unattend.xml"
        $same = (Test-Path -LiteralPath $target) -and [Convert]::ToBase64String([System.IO.File]::ReadAllBytes($target)) -ceq $Content
        if (-not $same) {
            $null = [System.IO.Directory]::CreateDirectory("$windows\Panther")
            [System.IO.File]::WriteAllBytes($target, $bytes)
            $what += 'answer file'
        }
        break
    }
} finally {
    if ((Get-VHD -Path $Disk).Attached) { Dismount-VHD -Path $Disk }
}
if (-not $done) { Stop-Verb 'notFound' 'the disk holds no Windows' $Disk }

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
