<#
.SYNOPSIS
Runs a program to its end and returns what it printed.
.DESCRIPTION
Needs: the program.
Makes: nothing itself.
Returns: exitCode, stdout, stderr (base64, 16 MiB in all), timedOut.
Errors: notFound: there is no such program.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Program,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $Arguments,
    [Parameter(Mandatory)] [AllowEmptyString()] [string] $Stdin,
    [Parameter(Mandatory)] [int] $Seconds
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# An argument as CommandLineToArgvW reads it: backslashes before a quote are doubled, the quote is escaped.
function Format-Argument([string] $Text) {
    if ($Text -ne '' -and $Text -notmatch '[\s"]') { return $Text }
    '"' + (($Text -replace '(\\*)"', '$1$1\"') -replace '(\\+)$', '$1$1') + '"'
}

if (-not (Test-Path -LiteralPath $Program -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such program' $Program }
$start = [System.Diagnostics.ProcessStartInfo]::new($Program)
$start.Arguments = @($Arguments | Where-Object { $null -ne $_ } | ForEach-Object { Format-Argument $_ }) -join ' '
$start.UseShellExecute = $false
$start.CreateNoWindow = $true
$start.RedirectStandardInput = $true
$start.RedirectStandardOutput = $true
$start.RedirectStandardError = $true
$deadline = [datetime]::UtcNow.AddSeconds($(if ($Seconds -gt 0) { $Seconds } else { 60 }))
$room = 16777216
$timedOut = $false
$process = [System.Diagnostics.Process]::Start($start)
try {
    $data = [Convert]::FromBase64String($Stdin)
    $write = $process.StandardInput.BaseStream.WriteAsync($data, 0, $data.Length)
    $readers = @(
        [pscustomobject]@{ stream = $process.StandardOutput.BaseStream; buffer = [byte[]]::new(65536); task = $null; out = [System.IO.MemoryStream]::new() }
        [pscustomobject]@{ stream = $process.StandardError.BaseStream; buffer = [byte[]]::new(65536); task = $null; out = [System.IO.MemoryStream]::new() }
    )
    foreach ($reader in $readers) { $reader.task = $reader.stream.ReadAsync($reader.buffer, 0, $reader.buffer.Length) }
    while ($open = @($readers | Where-Object { $_.task })) {
        $tasks = @($open | ForEach-Object { $_.task }) + @($write | Where-Object { $_ })
        $left = [int][math]::Max(0, ($deadline - [datetime]::UtcNow).TotalMilliseconds)
        if ([System.Threading.Tasks.Task]::WaitAny([System.Threading.Tasks.Task[]]$tasks, $left) -lt 0) {
            $timedOut = $true
            $process.Kill()
            break
        }
        if ($write -and $write.IsCompleted) {
            # Closing tells the program that this was all; one that is gone already does not care.
            try { $process.StandardInput.Close() } catch { $null = $_ }
            $write = $null
        }
        foreach ($reader in @($open | Where-Object { $_.task.IsCompleted })) {
            $count = $reader.task.GetAwaiter().GetResult()
            $keep = [math]::Min($count, $room)
            $reader.out.Write($reader.buffer, 0, $keep)
            $room -= $keep
            $reader.task = if ($count -gt 0) { $reader.stream.ReadAsync($reader.buffer, 0, $reader.buffer.Length) } else { $null }
        }
    }
    $process.WaitForExit()
    $code = $process.ExitCode
} finally {
    $process.Dispose()
}

[pscustomobject]@{
    exitCode = $code
    stdout   = [Convert]::ToBase64String($readers[0].out.ToArray())
    stderr   = [Convert]::ToBase64String($readers[1].out.ToArray())
    timedOut = $timedOut
}
