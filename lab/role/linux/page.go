package linux

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"l4lab/lab/role"
)

// PageServer is a program that serves pages: what its unit runs, and the files
// that it needs, by path.
type PageServer interface {
	Serve(p role.Page) (argv []string, files map[string]string, err error)
}

// Lbagent serves pages by `lbagent web`, which the proof needs: it answers
// /bytes, /sink and datagrams as well.
type Lbagent struct{}

// Serve implements PageServer.
func (Lbagent) Serve(p role.Page) ([]string, map[string]string, error) {
	return []string{
		Program, "web", "--name", p.Name, "--address", p.Address.String(), "--os", string(p.OS),
		"--tcp", listenOn(p.TCP), "--udp", listenOn(p.UDP),
	}, nil, nil
}

func listenOn(ports []uint16) string {
	s := make([]string, len(ports))
	for i, p := range ports {
		s[i] = fmt.Sprintf(":%d", p)
	}
	return strings.Join(s, ",")
}

// Nginx serves pages by the machine's own nginx, as the demo did: the page and
// /whoami, over TCP alone.
type Nginx struct{}

// nginxConfig is where Nginx has its configuration, apart from the distribution's.
const nginxConfig = Folder + "/nginx.conf"

// Serve implements PageServer.
func (Nginx) Serve(p role.Page) ([]string, map[string]string, error) {
	if len(p.UDP) > 0 {
		return nil, nil, fmt.Errorf("a native page answers no datagrams, and %s stands behind a UDP service", p.Name)
	}
	if strings.ContainsAny(p.Name, "\"'\\$;{}<>\n") {
		return nil, nil, fmt.Errorf("the name %q cannot stand in nginx's configuration", p.Name)
	}
	var listen strings.Builder
	for _, port := range p.TCP {
		fmt.Fprintf(&listen, "    listen %d;\n", port)
	}
	config := fmt.Sprintf(nginxTemplate, listen.String(), p.Name, p.Name, p.Address, p.OS, p.Name, p.Name, p.Address, p.OS)
	return []string{"nginx", "-c", nginxConfig, "-g", "daemon off;"}, map[string]string{nginxConfig: config}, nil
}

const nginxTemplate = `# Written by labctl, which will write it again.
worker_processes 1;
pid /run/l4lab-web.pid;
error_log stderr;
events {}
http {
  access_log off;
  server {
%s    add_header X-Backend "%s" always;
    location = /whoami {
      default_type application/json;
      return 200 '{"name":"%s","address":"%s","os":"%s","client":"$remote_addr:$remote_port"}\n';
    }
    location / {
      default_type text/html;
      return 200 '<!doctype html><meta http-equiv="refresh" content="2"><title>%s</title><h1>%s</h1><p>%s, %s, nginx</p>\n';
    }
  }
}
`

// EnsurePage implements role.System.
func (s *System) EnsurePage(ctx context.Context, p role.Page) error {
	argv, files, err := s.Page.Serve(p)
	if err != nil {
		return s.errorf("%w", err)
	}
	if err := s.push(ctx, p.Program, p.Hash); err != nil {
		return err
	}
	stale := false
	for path, content := range files {
		written, err := s.install(ctx, path, content)
		if err != nil {
			return err
		}
		stale = stale || written
	}
	u := unit{
		name: webUnit, description: fmt.Sprintf("l4lab: page of %s", p.Name), start: [][]string{argv},
		record: record{Spec: p.Spec()},
	}
	if len(p.TCP) > 0 {
		u.At = "tcp " + netip.AddrPortFrom(p.Address, p.TCP[0]).String()
	} else {
		u.At = "udp " + netip.AddrPortFrom(p.Address, p.UDP[0]).String()
	}
	return s.ensureDaemon(ctx, u, stale)
}
