package wsman

import "fmt"

// fault is a SOAP fault with WinRM's own code. Codes and texts: wsmerror.h;
// subcodes: DSP0226 annex on faults.
type fault struct {
	code    uint32
	subcode string
	reason  string
}

func (f *fault) Error() string { return fmt.Sprintf("%s (%d)", f.reason, f.code) }

// The faults that this service knows.
const (
	codeTimedOut         = 2150858793 // ERROR_WSMAN_OPERATION_TIMEDOUT
	codeShellNotFound    = 2150858843 // ERROR_WSMAN_UNEXPECTED_SELECTORS
	codeInvalidSelectors = 2150858813 // ERROR_WSMAN_INVALID_SELECTORS
	codeMissingSelectors = 2150858842 // ERROR_WSMAN_INSUFFCIENT_SELECTORS
	codeInvalidAction    = 2150858753 // ERROR_WSMAN_INVALID_ACTIONURI
	codeInvalidResource  = 2150858811 // ERROR_WSMAN_INVALID_RESOURCE_URI
	codeInvalidXML       = 2150858819 // ERROR_WSMAN_INVALID_XML
	codeInvalidBody      = 2150858791 // ERROR_WSMAN_INVALID_SOAP_BODY
	codeInvalidTimeout   = 2150858881 // ERROR_WSMAN_INVALID_TIMEOUT_HEADER
	codeQuotaShells      = 2150859173 // ERROR_WSMAN_QUOTA_MAX_SHELLS
	codeQuotaOperations  = 2150859174 // ERROR_WSMAN_QUOTA_MAX_OPERATIONS
	codeEnvelopeExceeded = 2150858824 // ERROR_WSMAN_MAX_ENVELOPE_SIZE_EXCEEDED
	// Win32 errors as HRESULTs.
	codePipeClosing      = 2147942632 // 0x800700E8 ERROR_NO_DATA
	codeInvalidParameter = 2147942487 // 0x80070057 E_INVALIDARG
	codeAborted          = 2147943395 // 0x800703E3 ERROR_OPERATION_ABORTED
)

func timedOut() *fault {
	return &fault{codeTimedOut, "w:TimedOut", "The WS-Management service cannot complete the operation within the time specified in OperationTimeout."}
}

func shellNotFound(id string) *fault {
	return &fault{codeShellNotFound, "w:InvalidSelectors", fmt.Sprintf("The request for the Windows Remote Shell with ShellId %s failed because the shell was not found on the server. Possible causes are: the specified ShellId is incorrect or the shell no longer exists on the server. Provide the correct ShellId or create a new shell and retry the operation.", id)}
}

func missingSelector() *fault {
	return &fault{codeMissingSelectors, "w:InvalidSelectors", "The WS-Management service cannot process the request because the request did not contain all the selectors that the resource requires: ShellId."}
}

func invalidSelector(name string) *fault {
	return &fault{codeInvalidSelectors, "w:InvalidSelectors", fmt.Sprintf("The WS-Management service cannot process the request because the selector %s is not valid for the resource.", name)}
}

func tooManyShells(limit int) *fault {
	return &fault{codeQuotaShells, "w:QuotaLimit", fmt.Sprintf("The WS-Management service cannot process the request. This user is allowed a maximum number of %d concurrent shells, which has been exceeded. Close existing shells or raise the quota for this user.", limit)}
}

func tooManyProcesses(limit int) *fault {
	return &fault{codeQuotaOperations, "w:QuotaLimit", fmt.Sprintf("The WS-Management service cannot process the request. The maximum number of concurrent operations for this user has been exceeded: a shell is allowed %d processes.", limit)}
}

func pipeClosing() *fault {
	return &fault{codePipeClosing, "w:InternalError", "The pipe is being closed."}
}

func aborted() *fault {
	return &fault{codeAborted, "w:InternalError", "The I/O operation has been aborted because of either a thread exit or an application request."}
}

func unknownCommand(id string) *fault {
	return &fault{codeInvalidParameter, "w:InvalidParameter", fmt.Sprintf("The parameter is incorrect: there is no command %s in the shell.", id)}
}
