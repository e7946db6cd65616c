<#
.SYNOPSIS
Sets the range from which the system takes the source ports of its own TCP and UDP traffic over IPv4.
.DESCRIPTION
Needs: nothing.
Makes: the dynamic port ranges of TCP and UDP, which outlast a restart.
Returns: changed, what.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [int] $First,
    [Parameter(Mandatory)] [int] $Count
)

# What netsh shows is localised, so the cmdlets read and netsh, which alone sets UDP's range, writes.
$tcp = Get-NetTCPSetting -SettingName 'Internet'
$udp = Get-NetUDPSetting | Select-Object -First 1
$ranges = @(
    [pscustomobject]@{ protocol = 'tcp'; start = [int]$tcp.DynamicPortRangeStartPort; number = [int]$tcp.DynamicPortRangeNumberOfPorts }
    [pscustomobject]@{ protocol = 'udp'; start = [int]$udp.DynamicPortRangeStartPort; number = [int]$udp.DynamicPortRangeNumberOfPorts }
)
$what = @()
foreach ($range in $ranges) {
    if ($range.start -eq $First -and $range.number -eq $Count) { continue }
    $arguments = 'interface', 'ipv4', 'set', 'dynamicport', $range.protocol, "start=$First", "num=$Count"
    $output = & netsh.exe @arguments
    if ($LASTEXITCODE -ne 0) { throw "netsh.exe ended with exit code $($LASTEXITCODE): $output" }
    $what += "$($range.protocol) ports $First to $($First + $Count - 1)"
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
