<#
.SYNOPSIS
Gives the host its routes through the lab's adapter.
.DESCRIPTION
Needs: the switch with the mark, the adapter with its address.
Makes: routes in the active store (gone after a restart of the host), exactly these besides the connected ones.
Returns: changed, what.
Errors: notFound: there is no switch of this name with the mark.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Switch,
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [object[]] $Routes
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$vmSwitch = Get-VMSwitch | Where-Object { $_.Name -eq $Switch -and ([string]$_.Notes).Trim() -ceq $Mark }
if (-not $vmSwitch) { Stop-Verb 'notFound' 'there is no switch of this name with the mark' $Switch }
$mac = [string](Get-VMNetworkAdapter -ManagementOS -SwitchName $Switch | Select-Object -First 1 | ForEach-Object { $_.MacAddress })
$adapter = Get-NetAdapter -IncludeHidden | Where-Object {
    $mac -and ([string]$_.MacAddress).Replace('-', '') -eq $mac -and $_.InterfaceDescription -like 'Hyper-V Virtual Ethernet*'
} | Select-Object -First 1
if (-not $adapter) { Stop-Verb 'notFound' 'the host has no adapter on this switch' $Switch }
# A list without members may have come as null.
$routesWanted = @($Routes | Where-Object { $_ })
$wanted = @($routesWanted | ForEach-Object { '{0} via {1}' -f $_.destination, $_.via })
$what = @()
$existing = @()
foreach ($route in @(Get-NetRoute -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $adapter.ifIndex -and $_.NextHop -ne '0.0.0.0' })) {
    $text = '{0} via {1}' -f $route.DestinationPrefix, $route.NextHop
    if ($wanted -contains $text) {
        $existing += $text
    } else {
        $route | Remove-NetRoute -Confirm:$false
        $what += "without $text"
    }
}
foreach ($route in @($routesWanted | Where-Object { $existing -notcontains ('{0} via {1}' -f $_.destination, $_.via) })) {
    $null = New-NetRoute -DestinationPrefix $route.destination -NextHop $route.via -InterfaceIndex $adapter.ifIndex -PolicyStore 'ActiveStore'
    $what += "route $($route.destination) via $($route.via)"
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
