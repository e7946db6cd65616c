package capability

import (
	"fmt"

	"l4lab/agent/api"
)

// Refuse returns an *api.Error that names the field when a profile cannot do what a
// service asks for. The service's defaults are filled in.
func (p Profile) Refuse(s api.Service) error {
	ipip := DSRIPIP4
	if s.Frontend.Addr().Is6() {
		ipip = DSRIPIP6
	}
	for _, c := range []struct {
		asked   bool
		field   string
		key     string
		instead string
	}{
		{s.Mode == "dsr" && s.Encap == "ipip", "encap", ipip, "encap l2 and mode snat are possible"},
		{s.TableSize != 0 && s.TableSize != MaglevSlots, "tableSize", TableSize, ""},
		{s.HealthCheck != nil && s.HealthCheck.Via == "vip", "healthCheck.via", HealthVIP, "direct is possible"},
	} {
		if !c.asked {
			continue
		}
		f, _ := Find(c.key)
		if on := f.On(p); on.Level == No {
			message := fmt.Sprintf("profile %s has no %s: %s", p, f.Name, on.Note)
			if c.instead != "" {
				message += "; " + c.instead
			}
			return &api.Error{Field: c.field, Message: message}
		}
	}
	return nil
}
