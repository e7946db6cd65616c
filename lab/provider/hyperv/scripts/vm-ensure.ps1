<#
.SYNOPSIS
Makes a virtual machine, or changes it to what is asked for; it is not started.
.DESCRIPTION
Needs: the switch, the disk and the DVD image; a machine that runs can only be changed where Hyper-V allows it (its own error else).
Makes: a machine with static memory, no automatic checkpoints, one adapter with a static MAC address.
Returns: changed, what, machine.
Errors: foreign: a machine of this name lacks the mark. notFound: the disk, the DVD image or the switch is missing.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Name,
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [string] $Node,
    [Parameter(Mandatory)] [string] $Folder,
    [Parameter(Mandatory)] [int] $Generation,
    [Parameter(Mandatory)] [long] $MemoryMB,
    [Parameter(Mandatory)] [int] $Processors,
    [Parameter(Mandatory)] [string] $Disk,
    [Parameter(Mandatory)] [AllowEmptyString()] [string] $DVD,
    [Parameter(Mandatory)] [string] $Switch,
    [Parameter(Mandatory)] [string] $MAC,
    [Parameter(Mandatory)] [bool] $Spoofing,
    [Parameter(Mandatory)] [string] $SecureBoot
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# A machine without notes in the lab's own folder is one whose making was cut off.
function Test-Ours([object] $VM) {
    $text = ([string]$VM.Notes).Trim()
    $text.StartsWith("$Mark node=") -or ($text -eq '' -and ([string]$VM.Path).StartsWith($Folder, [System.StringComparison]::OrdinalIgnoreCase))
}

# The DVD drive with its image, or without one; returns what was changed.
function Set-Drive([object] $VM) {
    $drive = Get-VMDvdDrive -VM $VM | Select-Object -First 1
    if (-not $drive) {
        if ($DVD) { Add-VMDvdDrive -VM $VM -Path $DVD; 'dvd' }
    } elseif ([string]$drive.Path -ne $DVD) {
        $image = if ($DVD) { $DVD } else { $null }
        Set-VMDvdDrive -VMDvdDrive $drive -Path $image
        'dvd'
    }
}

# Secure Boot and its template; returns what was changed.
function Set-SecureBoot([object] $VM) {
    $firmware = Get-VMFirmware -VM $VM
    $now = if ([string]$firmware.SecureBoot -eq 'On') { [string]$firmware.SecureBootTemplate } else { 'Off' }
    if ($now -eq $SecureBoot) { return }
    if ($SecureBoot -eq 'Off') {
        Set-VMFirmware -VM $VM -EnableSecureBoot 'Off'
    } else {
        Set-VMFirmware -VM $VM -EnableSecureBoot 'On' -SecureBootTemplate $SecureBoot
    }
    "secure boot $SecureBoot"
}

# What there is of a virtual machine.
function Get-VMFact([object] $VM) {
    $nic = Get-VMNetworkAdapter -VM $VM | Select-Object -First 1
    $secure = $VM.Generation -eq 2 -and [string](Get-VMFirmware -VM $VM).SecureBoot -eq 'On'
    $heartbeat = [string]$VM.Heartbeat
    [pscustomobject]@{
        name          = [string]$VM.Name
        id            = [string]$VM.Id
        node          = ([string]$VM.Notes -split ' node=')[-1].Trim()
        state         = [string]$VM.State
        heartbeat     = $(if ([string]$VM.State -eq 'Off') { '' } else { $heartbeat })
        uptimeSeconds = [long]$VM.Uptime.TotalSeconds
        generation    = [int]$VM.Generation
        memoryMB      = [long]($VM.MemoryStartup / 1048576)
        processors    = [int]$VM.ProcessorCount
        mac           = $(if ($nic) { [string]$nic.MacAddress } else { '' })
        switch        = $(if ($nic) { [string]$nic.SwitchName } else { '' })
        spoofing      = [bool]($nic -and [string]$nic.MacAddressSpoofing -eq 'On')
        secureBoot    = [bool]$secure
        disks         = @(Get-VMHardDiskDrive -VM $VM | ForEach-Object { [string]$_.Path })
        dvd           = [string](Get-VMDvdDrive -VM $VM | Select-Object -First 1 | ForEach-Object { $_.Path })
        checkpoints   = @(Get-VMSnapshot -VM $VM | ForEach-Object { [string]$_.Name })
    }
}

$notes = "$Mark node=$Node"
$what = @()
foreach ($file in @($Disk, $DVD) | Where-Object { $_ }) {
    if (-not (Test-Path -LiteralPath $file -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such file' $file }
}
if (-not (Get-VMSwitch | Where-Object { $_.Name -eq $Switch })) { Stop-Verb 'notFound' 'there is no such switch' $Switch }
$vm = Get-VM | Where-Object { $_.Name -eq $Name } | Select-Object -First 1
if (-not $vm) {
    $vm = New-VM -Name $Name -Path $Folder -Generation ([int16]$Generation) -MemoryStartupBytes ($MemoryMB * 1048576) -VHDPath $Disk -SwitchName $Switch
    Set-VM -VM $vm -Notes $notes -StaticMemory -AutomaticCheckpointsEnabled $false -AutomaticStartAction 'Nothing' -AutomaticStopAction 'ShutDown'
    $what += 'machine'
} elseif (-not (Test-Ours $vm)) {
    Stop-Verb 'foreign' 'a virtual machine of this name exists, and its notes lack the mark' $Name
}
if (([string]$vm.Notes).Trim() -cne $notes) { Set-VM -VM $vm -Notes $notes; $what += 'notes' }
if ($vm.MemoryStartup -ne $MemoryMB * 1048576) { Set-VM -VM $vm -StaticMemory -MemoryStartupBytes ($MemoryMB * 1048576); $what += "memory $MemoryMB MB" }
if ($vm.ProcessorCount -ne $Processors) { Set-VM -VM $vm -ProcessorCount $Processors; $what += "processors $Processors" }
if (-not (Get-VMNetworkAdapter -VM $vm)) { Add-VMNetworkAdapter -VM $vm -SwitchName $Switch; $what += 'adapter' }
$nic = Get-VMNetworkAdapter -VM $vm | Select-Object -First 1
if ($nic.MacAddress -ne $MAC -or $nic.DynamicMacAddressEnabled) { Set-VMNetworkAdapter -VMNetworkAdapter $nic -StaticMacAddress $MAC; $what += 'mac' }
if (([string]$nic.MacAddressSpoofing -eq 'On') -ne $Spoofing) {
    Set-VMNetworkAdapter -VMNetworkAdapter $nic -MacAddressSpoofing $(if ($Spoofing) { 'On' } else { 'Off' })
    $what += 'spoofing'
}
if ($nic.SwitchName -ne $Switch) { Connect-VMNetworkAdapter -VMNetworkAdapter $nic -SwitchName $Switch; $what += 'switch' }
$what += @(Set-Drive $vm)
if ($Generation -eq 2) { $what += @(Set-SecureBoot $vm) }
# Integration services by identifier, their names are localised: heartbeat, shutdown, time, key-value pairs.
$services = @(
    '84EAAE65-2F2E-45F5-9BB5-0E857DC8EB47'
    '9F8233AC-BE49-4C79-8EE3-E7E1985B2077'
    '2497F4DE-E9FA-4204-80E4-4B75C46419C0'
    '2A34B1C2-FD73-4043-8A5B-DD2159BC743F'
)
foreach ($service in @(Get-VMIntegrationService -VM $vm | Where-Object { -not $_.Enabled -and $services -contains ([string]$_.Id -split '\\')[-1] })) {
    Enable-VMIntegrationService -VMIntegrationService $service
    $what += 'integration service'
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what; machine = (Get-VMFact (Get-VM -Id $vm.Id)) }
