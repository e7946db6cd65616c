package role

import (
	"context"
	"fmt"
	"net"
	"net/http"
)

// DialFunc makes a connection from a machine, as guest.Guest's Dial does.
type DialFunc func(ctx context.Context, network, local, address string) (net.Conn, error)

// AskPage asks a backend's page at ADDRESS:PORT over TCP who it is. That it takes
// connections is not enough: it listens on one port after the other and answers
// once it has all, and another's server on its port would not bear its name.
func AskPage(ctx context.Context, dial DialFunc, at, backend string) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dial(ctx, network, "", address)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/whoami", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if who := response.Header.Get("X-Backend"); who != backend {
		return fmt.Errorf("%s is answered by %q, not by %s", at, who, backend)
	}
	return nil
}
