package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/gateway/provision"
	"gatewayctl/pki/identity"
)

func (a *app) provisionCmd() *cobra.Command {
	var out, csr, format string
	var req api.CredentialsRequest
	var lifetime time.Duration
	var replace, additional bool
	cmd := &cobra.Command{
		Use:   "provision NAME --out DIR",
		Short: "Make credentials for a device, which is registered if it is new",
		Long: "Make credentials for a device: NAME.crt (with the intermediate certificate), NAME.key and ca.crt.\n" +
			"The key is made here and not kept; with --csr it stays where it was made.\n\n" +
			"A device that has a valid certificate keeps it unless you say what is meant: --replace revokes it\n" +
			"and cuts its connections, --additional leaves it beside the new one.",
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		id, err := identity.ParseDeviceID(args[0])
		if err != nil {
			return usage(cmd, err)
		}
		switch {
		case replace:
			req.Existing = api.ExistingReplace
		case additional:
			req.Existing = api.ExistingAdditional
		default:
			req.Existing = api.ExistingRefuse
		}
		req.Lifetime = api.Duration(lifetime)
		names, ok := map[string][]string{
			provision.FormatPEM:     {id.String() + ".crt", id.String() + ".key"},
			provision.FormatCHeader: {id.String() + ".h"},
			provision.FormatPKCS12:  {id.String() + ".p12"},
		}[format]
		switch {
		case !ok:
			return usage(cmd, fmt.Errorf("--format %q is not one of pem, c-header, p12", format))
		case format == provision.FormatPKCS12 && csr != "":
			return usage(cmd, errors.New("--format p12 holds the private key, and --csr keeps it where it was made"))
		}
		if csr != "" {
			b, err := os.ReadFile(csr)
			if err != nil {
				return fmt.Errorf("read certificate signing request: %w", err)
			}
			req.CSR = string(b)
		}
		if !replace {
			if err := checkOut(out, names); err != nil {
				return err
			}
		}
		cred, err := c.Provision(ctx, id.String(), req)
		if err != nil {
			return err
		}
		made, err := deviceFiles(cred, id, format)
		if err != nil {
			return err
		}
		files := make([]file, 0, len(made))
		for _, f := range made {
			files = append(files, file{f.Name, f.Perm, f.Data})
		}
		return a.writeFiles(out, files, cred)
	})
	f := cmd.Flags()
	f.StringVar(&out, "out", "certs", "directory to write to")
	f.StringVar(&csr, "csr", "", "file with a certificate signing request; the key stays where it was made")
	f.StringArrayVar(&req.Policies, "policy", nil, "policy to attach, may be repeated (default: device, its own topics)")
	f.StringVar(&req.Type, "type", "", "the device's type, a word such as lamp")
	f.StringVar(&format, "format", "pem", "files to write: pem, c-header or p12")
	f.DurationVar(&lifetime, "lifetime", 0, "how long the certificate is valid (0: as configured)")
	f.BoolVar(&replace, "replace", false, "revoke the certificates that the device has")
	f.BoolVar(&additional, "additional", false, "leave the certificates that the device has beside the new one")
	cmd.MarkFlagsMutuallyExclusive("replace", "additional")
	return cmd
}

// deviceFiles turns what the gateway answered into files for a device.
func deviceFiles(cred api.Credentials, id identity.DeviceID, format string) ([]provision.File, error) {
	c := provision.Credentials{
		Device: id, CertificatePEM: []byte(cred.CertificatePEM), KeyPEM: provision.Secret(cred.KeyPEM), CAPEM: []byte(cred.CAPEM),
	}
	return c.Files(format)
}
