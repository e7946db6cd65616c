<#
.SYNOPSIS
Has IIS serve a static page, and /whoami, with a header X-Backend.
.DESCRIPTION
Needs: Windows Server.
Makes: the feature Web-Server; a site l4lab in C:\inetpub\l4lab; the default site is off.
Returns: changed, what, reboot.
Errors: installFailed: the feature could not be installed.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Page,
    [Parameter(Mandatory)] [string] $Whoami,
    [Parameter(Mandatory)] [string] $Name,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [int[]] $Ports
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$what = @()
$feature = Install-WindowsFeature -Name 'Web-Server'
if (-not $feature.Success) { Stop-Verb 'installFailed' "Install-WindowsFeature Web-Server: $($feature.ExitCode)" 'Web-Server' }
if ([string]$feature.ExitCode -ne 'NoChangeNeeded') { $what += 'feature Web-Server' }
Import-Module -Name 'WebAdministration'
$root = Join-Path -Path $env:SystemDrive -ChildPath 'inetpub\l4lab'
$null = [System.IO.Directory]::CreateDirectory($root)
# A file without an extension needs a type of its own.
$config = [xml]'<configuration><system.webServer>
<staticContent><mimeMap fileExtension="." mimeType="text/plain" /></staticContent>
<httpProtocol><customHeaders><add name="X-Backend" value="" /></customHeaders></httpProtocol>
</system.webServer></configuration>'
$config.SelectSingleNode('//customHeaders/add').SetAttribute('value', $Name)
$files = [ordered]@{
    'index.html' = [Convert]::FromBase64String($Page)
    'whoami'     = [Convert]::FromBase64String($Whoami)
    'web.config' = [System.Text.Encoding]::UTF8.GetBytes($config.OuterXml)
}
foreach ($file in $files.Keys) {
    $path = Join-Path -Path $root -ChildPath $file
    $now = if (Test-Path -LiteralPath $path) { [Convert]::ToBase64String([System.IO.File]::ReadAllBytes($path)) } else { '' }
    if ($now -ceq [Convert]::ToBase64String($files[$file])) { continue }
    [System.IO.File]::WriteAllBytes($path, $files[$file])
    $what += $file
}
foreach ($site in @(Get-Website | Where-Object { $_.Name -ne 'l4lab' -and $_.State -eq 'Started' })) {
    Stop-Website -Name $site.Name
    Set-ItemProperty -Path "IIS:\Sites\$($site.Name)" -Name 'serverAutoStart' -Value $false
    $what += "site $($site.Name) off"
}
if (-not (Get-Website | Where-Object { $_.Name -eq 'l4lab' })) {
    $null = New-Website -Name 'l4lab' -PhysicalPath $root -Port ([uint32]($Ports | Select-Object -First 1)) -Force
    $what += 'site l4lab'
}
$bound = @(Get-WebBinding -Name 'l4lab' | ForEach-Object { ($_.bindingInformation -split ':')[1] })
foreach ($port in @($Ports | Where-Object { $_ -and $bound -notcontains [string]$_ })) {
    New-WebBinding -Name 'l4lab' -Protocol 'http' -Port ([uint32]$port)
    $what += "port $port"
}
if ((Get-Website | Where-Object { $_.Name -eq 'l4lab' }).State -ne 'Started') { Start-Website -Name 'l4lab'; $what += 'started' }

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what; reboot = [string]$feature.RestartNeeded -ne 'No' }
