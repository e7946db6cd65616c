<#
.SYNOPSIS
Has a program run as a service, with these arguments.
.DESCRIPTION
Needs: the program, which must be one that talks to the service manager (lbagent does).
Makes: an automatic service with its spec in the registry, restarted after failures.
Returns: changed, what.
Errors: notFound: there is no such program. foreign: a service of this name was not made by the lab.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Name,
    [Parameter(Mandatory)] [string] $Program,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $Arguments,
    [Parameter(Mandatory)] [AllowEmptyString()] [string] $Spec
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# An argument as CommandLineToArgvW reads it: backslashes before a quote are doubled, the quote is escaped.
function Format-Argument([string] $Text) {
    if ($Text -ne '' -and $Text -notmatch '[\s"]') { return $Text }
    '"' + (($Text -replace '(\\*)"', '$1$1\"') -replace '(\\+)$', '$1$1') + '"'
}

# The spec that the lab keeps with a service, $null when the service is not the lab's.
function Get-Spec([string] $Service) {
    $key = "HKLM:\SYSTEM\CurrentControlSet\Services\$Service\Parameters"
    if (Test-Path -LiteralPath $key) { (Get-Item -LiteralPath $key).GetValue('L4LabSpec') }
}

if (-not (Test-Path -LiteralPath $Program -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such program' $Program }
$command = @(@($Program) + @($Arguments | Where-Object { $null -ne $_ }) | ForEach-Object { Format-Argument $_ }) -join ' '
$what = @()
$service = Get-CimInstance -ClassName 'Win32_Service' | Where-Object { $_.Name -eq $Name }
$key = "HKLM:\SYSTEM\CurrentControlSet\Services\$Name\Parameters"
# One with this very command and no spec is one whose making was cut off.
if ($service -and $null -eq (Get-Spec $Name) -and $service.PathName -cne $command) { Stop-Verb 'foreign' 'a service of this name exists that the lab did not make' $Name }
if (-not $service) {
    $null = New-Service -Name $Name -BinaryPathName $command -DisplayName $Name -StartupType 'Automatic'
    $what += 'service'
} elseif ($service.PathName -cne $command -or [string](Get-Spec $Name) -cne $Spec) {
    Stop-Service -Name $Name -Force
    $changed = Invoke-CimMethod -InputObject $service -MethodName 'Change' -Arguments @{ PathName = $command }
    if ($changed.ReturnValue -ne 0) { throw "the service manager refused to change the service: $($changed.ReturnValue)" }
    $what += 'command'
}
if ($what.Count -gt 0) {
    # On a key that exists, New-Item would empty it.
    if (-not (Test-Path -LiteralPath $key)) { $null = New-Item -Path $key -ItemType 'Key' -Force }
    $null = New-ItemProperty -LiteralPath $key -Name 'L4LabSpec' -Value $Spec -PropertyType 'String' -Force
    # Again after 1, 10 and 60 seconds; an exit code other than 0 counts as a failure, too.
    $recovery = 'failure', $Name, 'reset=', '86400', 'actions=', 'restart/1000/restart/10000/restart/60000'
    $output = & sc.exe @recovery
    if ($LASTEXITCODE -ne 0) { throw "sc.exe failure ended with exit code $($LASTEXITCODE): $output" }
    $recovery = 'failureflag', $Name, '1'
    $output = & sc.exe @recovery
    if ($LASTEXITCODE -ne 0) { throw "sc.exe failureflag ended with exit code $($LASTEXITCODE): $output" }
}
if ([string](Get-Service -Name $Name).Status -ne 'Running') {
    Start-Service -Name $Name
    $what += 'started'
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
