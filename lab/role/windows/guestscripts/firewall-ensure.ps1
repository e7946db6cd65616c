<#
.SYNOPSIS
Allows traffic from anywhere to ports.
.DESCRIPTION
Needs: nothing.
Makes: inbound rules NAME-tcp and NAME-udp of group l4lab; one without ports is removed.
Returns: changed, what.
Errors: foreign: a rule of that name is not of group l4lab.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Name,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [int[]] $TCP,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [int[]] $UDP
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$what = @()
foreach ($protocol in 'TCP', 'UDP') {
    $id = '{0}-{1}' -f $Name, $protocol.ToLowerInvariant()
    $wanted = if ($protocol -eq 'TCP') { $TCP } else { $UDP }
    $ports = @($wanted | Where-Object { $_ } | Sort-Object -Unique | ForEach-Object { [string]$_ })
    $rule = Get-NetFirewallRule -All | Where-Object { $_.Name -eq $id } | Select-Object -First 1
    if ($rule) {
        if ([string]$rule.Group -ne 'l4lab') { Stop-Verb 'foreign' 'a rule of this name exists that the lab did not make' $id }
        $now = @(Get-NetFirewallPortFilter -AssociatedNetFirewallRule $rule | ForEach-Object { $_.LocalPort } | Sort-Object -Property { [int]$_ })
        if ($ports.Count -gt 0 -and ($now -join ',') -eq ($ports -join ',') -and [string]$rule.Enabled -eq 'True') { continue }
        Remove-NetFirewallRule -Name $id
        $what += "without rule $id"
    }
    if ($ports.Count -gt 0) {
        $null = New-NetFirewallRule -Name $id -DisplayName $id -Group 'l4lab' -Direction 'Inbound' -Action 'Allow' -Profile 'Any' -Protocol $protocol -LocalPort $ports
        $what += "rule $id $($ports -join ',')"
    }
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
