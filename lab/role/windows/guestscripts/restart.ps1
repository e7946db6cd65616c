<#
.SYNOPSIS
Restarts the guest, two seconds after the answer.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: nothing.
Errors: none of its own.
#>
[CmdletBinding()]
param()

$arguments = '/r', '/f', '/t', '2'
$output = & shutdown.exe @arguments
if ($LASTEXITCODE -ne 0) { throw "shutdown.exe ended with exit code $($LASTEXITCODE): $output" }
