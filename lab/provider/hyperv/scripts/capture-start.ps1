<#
.SYNOPSIS
Starts a packet capture at switch ports, by pktmon, of which a host runs one at a time.
.DESCRIPTION
Needs: pktmon with JSON output (Windows Server 2022, Windows 10 2004).
Makes: a capture of whole frames, and a file in the lab's folder that remembers it.
Returns: changed, what.
Errors: inUse: a capture runs already. notFound: a machine, its port or the host's adapter is not among pktmon's components.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Mark,
    [Parameter(Mandatory)] [string] $Switch,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $IDs,
    [Parameter(Mandatory)] [Alias('Host')] [bool] $HostAdapter,
    [Parameter(Mandatory)] [string] $Folder
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

function Invoke-Pktmon([string[]] $Arguments) {
    $output = & pktmon.exe @Arguments
    if ($LASTEXITCODE -ne 0) { throw "pktmon.exe $($Arguments[0]) ended with exit code $($LASTEXITCODE): $output" }
    $output -join "`n"
}

# The component of a port: in the switch's group, by its MAC address or its name; else anywhere by its MAC address.
function Get-Component([object[]] $Groups, [string] $Name, [string] $Mac) {
    foreach ($group in @($Groups | Sort-Object -Property { $_.Group -ne $Switch })) {
        foreach ($component in @($group.Components)) {
            $properties = @($component.PSObject.Properties | Where-Object { $_.Name -eq 'Properties' } | ForEach-Object { $_.Value })
            $values = @($properties | Where-Object { $_ } | ForEach-Object { ([string]$_.Value) -replace '[-:]', '' })
            if (($Mac -and $values -contains $Mac) -or ($group.Group -eq $Switch -and $component.Name -eq $Name)) { return [int]$component.Id }
        }
    }
    Stop-Verb 'notFound' 'pktmon has no component of this adapter' $Name
}

$captures = Join-Path -Path $Folder -ChildPath 'captures'
$memory = Join-Path -Path $captures -ChildPath 'capture.json'
if (Test-Path -LiteralPath $memory) { Stop-Verb 'inUse' 'the lab has a capture that was not ended' $memory }
$groups = ConvertFrom-Json -InputObject (Invoke-Pktmon @('list', '--json'))
$places = @()
foreach ($id in @($IDs | Where-Object { $_ })) {
    $vm = Get-VM | Where-Object { $_.Id -eq $id -and ([string]$_.Notes).StartsWith("$Mark node=") }
    if (-not $vm) { Stop-Verb 'notFound' 'there is no virtual machine with this id and the mark' $id }
    $mac = [string](Get-VMNetworkAdapter -VM $vm | Select-Object -First 1 | ForEach-Object { $_.MacAddress })
    $places += [pscustomobject]@{ id = $id; component = (Get-Component $groups $vm.Name $mac) }
}
if ($HostAdapter) {
    $mac = [string](Get-VMNetworkAdapter -ManagementOS -SwitchName $Switch | Select-Object -First 1 | ForEach-Object { $_.MacAddress })
    $places += [pscustomobject]@{ id = ''; component = (Get-Component $groups "vEthernet ($Switch)" $mac) }
}
$null = [System.IO.Directory]::CreateDirectory($captures)
$log = Join-Path -Path $captures -ChildPath 'capture.etl'
if (Test-Path -LiteralPath $log) { Remove-Item -LiteralPath $log -Force }
[System.IO.File]::WriteAllText($memory, (ConvertTo-Json -InputObject @{ mark = $Mark; log = $log; places = $places } -Depth 4))
# Size 0: whole frames. A full log ends nothing but the recording of old frames.
$arguments = @('start', '--capture', '--comp') + @($places | ForEach-Object { [string]$_.component }) +
    @('--pkt-size', '0', '--file-name', $log, '--file-size', '1024')
try { $null = Invoke-Pktmon $arguments } catch {
    Remove-Item -LiteralPath $memory -Force
    Stop-Verb 'inUse' "pktmon did not start, perhaps as it runs already (pktmon status): $($_.Exception.Message)" $log
}

[pscustomobject]@{ changed = $true; what = @('capture') }
