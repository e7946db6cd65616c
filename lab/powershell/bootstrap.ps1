# Runs one script whose text and parameters come from standard input and writes
# one envelope; powershell.go has the protocol. Must not use the automatic
# variable of pipeline input: where it is used, PowerShell's console host reads
# standard input itself (ConsoleHost.cs, IsUsingDollarInput).
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
Set-StrictMode -Version Latest
$utf8 = [System.Text.UTF8Encoding]::new($false)
# Without a console there is nothing to set. With code page 65001, .NET
# Framework would begin each child's standard input with a byte order mark.
try { [Console]::InputEncoding = $utf8; [Console]::OutputEncoding = $utf8 } catch { $null = $_ }
# Scripts read their input from this reader, too: it has read ahead. [Console]::In
# is synchronised, so that its ReadLineAsync would block.
$StandardInput = [System.IO.StreamReader]::new([Console]::OpenStandardInput(), $utf8, $false, 65536)
$nonce = $StandardInput.ReadLine().Trim()
try {
    $text = $utf8.GetString([Convert]::FromBase64String($StandardInput.ReadLine()))
    $json = $utf8.GetString([Convert]::FromBase64String($StandardInput.ReadLine()))
    $parameters = @{}
    foreach ($property in (ConvertFrom-Json -InputObject $json).PSObject.Properties) {
        $parameters[$property.Name] = $property.Value
    }
    $block = [scriptblock]::Create($text)
    $envelope = [ordered]@{ ok = $true; result = (& $block @parameters) }
    $line = ConvertTo-Json -InputObject $envelope -Depth 12 -Compress
} catch {
    $code = ([string]$_.FullyQualifiedErrorId -split ',')[0]
    # What was thrown without an id has its message there.
    if ($code -match '\s') { $code = $_.Exception.GetType().Name }
    $failure = [ordered]@{
        code    = $code
        message = $_.Exception.Message
        target  = [string]$_.TargetObject
    }
    $line = ConvertTo-Json -InputObject ([ordered]@{ ok = $false; error = $failure }) -Compress
}
$line = [regex]::Replace($line, '[^ -~]', { param($match) '\u{0:x4}' -f [int][char]$match.Value })
[Console]::Out.Write("`n-----BEGIN l4lab $nonce-----`n$line`n-----END l4lab $nonce-----`n")
[Console]::Out.Flush()
exit 0
