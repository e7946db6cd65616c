<#
.SYNOPSIS
Runs a program on the host and passes its streams on.
.DESCRIPTION
Needs: the program, by its full path, or by its name where the host's PATH leads to it.
Makes: lines 1:BASE64 and 2:BASE64 while it runs.
Returns: exitCode.
Errors: notFound: there is no such program.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Program,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $Arguments,
    [Parameter(Mandatory)] [bool] $Stdin
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# An argument as CommandLineToArgvW reads it: backslashes before a quote are doubled, the quote is escaped.
function Format-Argument([string] $Text) {
    if ($Text -ne '' -and $Text -notmatch '[\s"]') { return $Text }
    '"' + (($Text -replace '(\\*)"', '$1$1\"') -replace '(\\+)$', '$1$1') + '"'
}

$path = ''
if ($Program -notmatch '[\\/:]') {
    # Escaped, a name is no pattern. Batch files are left out: they read arguments by other rules.
    $name = [System.Management.Automation.WildcardPattern]::Escape($Program)
    try { $found = @(Get-Command -Name $name -CommandType 'Application' -All) } catch { $found = @() }
    $path = [string]($found | Where-Object { '.exe', '.com' -contains $_.Extension } | Select-Object -First 1 | ForEach-Object { $_.Source })
} elseif ([System.IO.Path]::IsPathRooted($Program) -and (Test-Path -LiteralPath $Program -PathType 'Leaf')) {
    $path = $Program
}
if (-not $path) { Stop-Verb 'notFound' 'there is no such program on the host' $Program }
$start = [System.Diagnostics.ProcessStartInfo]::new($path)
$start.Arguments = @($Arguments | Where-Object { $null -ne $_ } | ForEach-Object { Format-Argument $_ }) -join ' '
$start.UseShellExecute = $false
$start.CreateNoWindow = $true
$start.RedirectStandardInput = $true
$start.RedirectStandardOutput = $true
$start.RedirectStandardError = $true
$process = [System.Diagnostics.Process]::Start($start)
try {
    $sink = $process.StandardInput.BaseStream
    $readers = @(
        [pscustomobject]@{ prefix = '1:'; stream = $process.StandardOutput.BaseStream; buffer = [byte[]]::new(49152); task = $null }
        [pscustomobject]@{ prefix = '2:'; stream = $process.StandardError.BaseStream; buffer = [byte[]]::new(49152); task = $null }
    )
    foreach ($reader in $readers) { $reader.task = $reader.stream.ReadAsync($reader.buffer, 0, $reader.buffer.Length) }
    # One thing at a time on the way in: a line is read, or its data is written.
    $line = $null
    $write = $null
    if ($Stdin) { $line = $StandardInput.ReadLineAsync() } else { $sink.Dispose() }
    while ($open = @($readers | Where-Object { $_.task })) {
        $tasks = @($open | ForEach-Object { $_.task }) + @($line, $write | Where-Object { $_ })
        $null = [System.Threading.Tasks.Task]::WaitAny([System.Threading.Tasks.Task[]]$tasks)
        foreach ($reader in @($open | Where-Object { $_.task.IsCompleted })) {
            $count = $reader.task.GetAwaiter().GetResult()
            if ($count -gt 0) {
                [Console]::Out.Write($reader.prefix + [Convert]::ToBase64String($reader.buffer, 0, $count) + "`n")
                $reader.task = $reader.stream.ReadAsync($reader.buffer, 0, $reader.buffer.Length)
            } else {
                $reader.task = $null
            }
        }
        if ($line -and $line.IsCompleted) {
            $text = $line.GetAwaiter().GetResult()
            $line = $null
            if ($text) {
                $data = [Convert]::FromBase64String($text)
                $write = $sink.WriteAsync($data, 0, $data.Length)
            } else {
                $sink.Dispose()
            }
        } elseif ($write -and $write.IsCompleted) {
            # A program that reads no more has closed its end.
            if (-not $write.IsFaulted) { $sink.Flush(); $line = $StandardInput.ReadLineAsync() }
            $write = $null
        }
    }
    $process.WaitForExit()
    $code = $process.ExitCode
} finally {
    if (-not $process.HasExited) { $process.Kill() }
    $process.Dispose()
}

[pscustomobject]@{ exitCode = $code }
