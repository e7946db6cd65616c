<#
.SYNOPSIS
Tells what the host is and has, for doctor.
.DESCRIPTION
Needs: nothing; without the Hyper-V module, or the rights to use it, the other facts are told all the same.
Makes: nothing.
Returns: os, version, powerShell, edition, elevated, hyperV, module, freeMemoryMB, freeDiskMB, processors, sshServer, pktmon, foreign.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Folder,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [string[]] $Names,
    [Parameter(Mandatory)] [string] $Mark
)

$os = Get-CimInstance -ClassName 'Win32_OperatingSystem'
$computer = Get-CimInstance -ClassName 'Win32_ComputerSystem'
$user = [System.Security.Principal.WindowsPrincipal]::new([System.Security.Principal.WindowsIdentity]::GetCurrent())
# The groups by their well-known identifiers: Administrators and Hyper-V Administrators; their names are localised.
$elevated = $user.IsInRole([System.Security.Principal.SecurityIdentifier]::new('S-1-5-32-544')) -or
    $user.IsInRole([System.Security.Principal.SecurityIdentifier]::new('S-1-5-32-578'))
$services = @(Get-Service)
$vmms = @($services | Where-Object { $_.Name -eq 'vmms' -and [string]$_.Status -eq 'Running' })
$sshd = @($services | Where-Object { $_.Name -eq 'sshd' } | ForEach-Object { [string]$_.Status })
$module = @(Get-Module -ListAvailable -Name 'Hyper-V' | ForEach-Object { [string]$_.Version })
$foreign = @()
if ($module.Count -gt 0 -and $vmms.Count -gt 0 -and $elevated) {
    $foreign += @(Get-VMSwitch | Where-Object { $Names -contains $_.Name -and ([string]$_.Notes).Trim() -cne $Mark } |
            ForEach-Object { "switch $($_.Name)" })
    $foreign += @(Get-VM | Where-Object { $Names -contains $_.Name -and -not ([string]$_.Notes).StartsWith("$Mark node=") } |
            ForEach-Object { "machine $($_.Name)" })
}
# etl2pcap came with Windows 10 2004 (build 19041).
$pktmon = Test-Path -LiteralPath "$env:SystemRoot\System32\pktmon.exe"
$build = ([version]$os.Version).Build

[pscustomobject]@{
    os           = [string]$os.Caption
    version      = [string]$os.Version
    powerShell   = [string]$PSVersionTable.PSVersion
    edition      = [string]$PSVersionTable.PSEdition
    elevated     = $elevated
    hyperV       = $vmms.Count -gt 0
    module       = [string]($module | Select-Object -First 1)
    freeMemoryMB = [long][math]::Floor($os.FreePhysicalMemory / 1024)
    freeDiskMB   = [long][math]::Floor([System.IO.DriveInfo]::new([System.IO.Path]::GetPathRoot($Folder)).AvailableFreeSpace / 1048576)
    processors   = [int]$computer.NumberOfLogicalProcessors
    sshServer    = [string]($sshd | Select-Object -First 1)
    pktmon       = $pktmon -and $build -ge 19041
    foreign      = $foreign
}
