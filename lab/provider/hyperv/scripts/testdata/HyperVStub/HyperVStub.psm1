# A Hyper-V host in memory, as far as the verbs of switches and machines need
# one: for Pester tests on machines without Hyper-V. Its functions have the
# cmdlets' names and the parameters that the verbs use; objects have the
# properties that the verbs read. Nothing here runs anything.

$script:Switches = [System.Collections.ArrayList]::new()
$script:Machines = [System.Collections.ArrayList]::new()

function Reset-HyperVStub {
    $script:Switches.Clear()
    $script:Machines.Clear()
}

function Get-VMSwitch {
    $script:Switches.ToArray()
}

function New-VMSwitch {
    param([string] $Name, [string] $SwitchType, [string] $Notes)
    $new = [pscustomobject]@{ Name = $Name; Id = [guid]::NewGuid(); SwitchType = $SwitchType; Notes = $Notes }
    $null = $script:Switches.Add($new)
    $new
}

function Remove-VMSwitch {
    param([object] $VMSwitch, [switch] $Force, [switch] $Confirm)
    $script:Switches.Remove($VMSwitch)
}

function Get-VM {
    param([object] $Id)
    foreach ($machine in $script:Machines.ToArray()) {
        if ($null -eq $Id -or $machine.Id -eq $Id) { $machine }
    }
}

# Adds a machine as New-VM would leave it; tests make theirs with it.
function Add-StubMachine {
    param([string] $Name, [string] $Notes, [string] $State, [string] $SwitchName)
    $new = [pscustomobject]@{
        Name = $Name; Id = [guid]::NewGuid(); Notes = $Notes; State = $State; Path = 'C:\stub'
        Heartbeat = 'OkApplicationsHealthy'; Uptime = [timespan]::FromSeconds(5); SwitchName = $SwitchName
    }
    $null = $script:Machines.Add($new)
    $new
}

function Start-VM {
    param([object] $VM)
    $VM.State = 'Running'
}

function Stop-VM {
    param([object] $VM, [switch] $TurnOff, [switch] $Force, [switch] $AsJob)
    $VM.State = 'Off'
}

function Get-VMNetworkAdapter {
    param([Parameter(ValueFromPipeline)] [object] $VM, [switch] $ManagementOS, [string] $SwitchName)
    process {
        if ($ManagementOS) {
            [pscustomobject]@{ Name = $SwitchName; MacAddress = '00155D010164' }
        } elseif ($VM) {
            [pscustomobject]@{ VMName = $VM.Name; SwitchName = $VM.SwitchName; MacAddress = '00155D01010A' }
        }
    }
}

function Get-NetAdapter {
    param([switch] $IncludeHidden)
    [pscustomobject]@{
        Name = 'vEthernet (stub)'; ifIndex = 7; MacAddress = '00-15-5D-01-01-64'
        InterfaceDescription = 'Hyper-V Virtual Ethernet Adapter'
    }
}

function Get-NetIPInterface {
    param([string] $AddressFamily)
    [pscustomobject]@{ InterfaceIndex = 7; NlMtu = 1500; Dhcp = 'Disabled' }
}

function Get-NetIPAddress {
    param([string] $AddressFamily)
    [pscustomobject]@{ InterfaceIndex = 7; IPAddress = '20.1.1.100'; PrefixLength = 24 }
}

function Get-NetRoute {
    param([string] $AddressFamily)
    [pscustomobject]@{ InterfaceIndex = 7; DestinationPrefix = '40.1.1.1/32'; NextHop = '20.1.1.1' }
}
