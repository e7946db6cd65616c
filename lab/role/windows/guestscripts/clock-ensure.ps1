<#
.SYNOPSIS
Sets the clock, where it is more than a second off.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: changed, what.
Errors: none of its own.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [long] $Seconds
)

$wanted = [DateTimeOffset]::FromUnixTimeSeconds($Seconds)
$off = ([DateTimeOffset]::UtcNow - $wanted).TotalSeconds
if ([math]::Abs($off) -le 1) { return [pscustomobject]@{ changed = $false; what = @() } }
$null = Set-Date -Date $wanted.LocalDateTime

[pscustomobject]@{ changed = $true; what = @("clock was $([math]::Round($off)) s off") }
