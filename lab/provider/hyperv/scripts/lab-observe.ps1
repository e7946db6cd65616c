<#
.SYNOPSIS
Tells all that bears the lab's mark.
.DESCRIPTION
Needs: the Hyper-V module.
Makes: nothing.
Returns: switch (null where there is none), machines, foreign, portProxies.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [string] $Switch,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $Names,
    [Parameter(Mandatory)] [string] $Folder
)

# What there is of the switch and of the host's adapter on it, which is known by its MAC address.
function Get-SwitchFact([object] $VMSwitch) {
    $mac = [string](Get-VMNetworkAdapter -ManagementOS -SwitchName $VMSwitch.Name | Select-Object -First 1 | ForEach-Object { $_.MacAddress })
    $adapter = Get-NetAdapter -IncludeHidden | Where-Object {
        $mac -and ([string]$_.MacAddress).Replace('-', '') -eq $mac -and $_.InterfaceDescription -like 'Hyper-V Virtual Ethernet*'
    } | Select-Object -First 1
    $index = if ($adapter) { [int]$adapter.ifIndex } else { 0 }
    [pscustomobject]@{
        name           = [string]$VMSwitch.Name
        id             = [string]$VMSwitch.Id
        type           = [string]$VMSwitch.SwitchType
        interfaceIndex = $index
        mac            = $(if ($adapter) { [string]$adapter.MacAddress } else { '' })
        mtu            = [int](Get-NetIPInterface -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index } | ForEach-Object { $_.NlMtu })
        addresses      = @(Get-NetIPAddress -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index } |
                ForEach-Object { '{0}/{1}' -f $_.IPAddress, $_.PrefixLength })
        routes         = @(Get-NetRoute -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index -and $_.NextHop -ne '0.0.0.0' } |
                ForEach-Object { [pscustomobject]@{ destination = [string]$_.DestinationPrefix; via = [string]$_.NextHop } })
    }
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

$foreign = @()
$facts = $null
foreach ($found in @(Get-VMSwitch | Where-Object { $_.Name -eq $Switch })) {
    if (([string]$found.Notes).Trim() -ceq $Mark) { $facts = Get-SwitchFact $found } else { $foreign += "switch $($found.Name)" }
}
$machines = @()
foreach ($vm in @(Get-VM)) {
    if (([string]$vm.Notes).StartsWith("$Mark node=")) {
        $machines += Get-VMFact $vm
    } elseif ($Names -contains $vm.Name) {
        $foreign += "machine $($vm.Name)"
    }
}
$proxies = @()
$remembered = Join-Path -Path $Folder -ChildPath 'portproxies.json'
$key = 'HKLM:\SYSTEM\CurrentControlSet\Services\PortProxy\v4tov4\tcp'
if ((Test-Path -LiteralPath $remembered) -and (Test-Path -LiteralPath $key)) {
    $existing = (Get-Item -LiteralPath $key).GetValueNames()
    $proxies = @((ConvertFrom-Json -InputObject ([System.IO.File]::ReadAllText($remembered))).proxies |
            Where-Object { $existing -contains ('{0}/{1}' -f $_.listenAddress, $_.listenPort) })
}

[pscustomobject]@{ switch = $facts; machines = $machines; foreign = $foreign; portProxies = $proxies }
