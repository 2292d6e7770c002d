package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

func (a *app) pkiCmd() *cobra.Command {
	return group("pki", "Show, issue and revoke certificates", a.pkiShowCmd(), a.pkiIssueCmd(), a.pkiRevokeCmd())
}

func (a *app) pkiShowCmd() *cobra.Command {
	var pem bool
	var q api.CertificateQuery
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the certificate authority and the certificates on record",
		Args:  cobra.NoArgs,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			if pem {
				ca, err := c.CA(ctx)
				if err != nil {
					return err
				}
				_, err = a.stdout.Write(ca)
				return err
			}
			p, err := c.PKI(ctx)
			if err != nil {
				return err
			}
			list, err := c.Certificates(ctx, q)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					api.PKI
					Certificates []api.Certificate `json:"certificates"`
				}{p, list})
			}
			return a.table(func(w io.Writer) {
				fmt.Fprintf(w, "CA\t%s, until %s\n", p.Root.CommonName, p.Root.NotAfter.Format("2006-01-02"))
				fmt.Fprintf(w, "\tSHA-256 %s\n", p.Root.ID)
				fmt.Fprintf(w, "intermediate\t%s, until %s\n", p.Intermediate.CommonName, p.Intermediate.NotAfter.Format("2006-01-02"))
				fmt.Fprintf(w, "issued\t%d, of these %d revoked\n\n", p.Issued, p.Revoked)
				fmt.Fprintln(w, "SERIAL\tPROFILE\tNAME\tUNTIL\tSTATE")
				for _, cert := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", cert.Serial, cert.Profile, certificateName(cert), cert.NotAfter.Format("2006-01-02"), certificateState(cert, time.Now()))
				}
			})
		}),
	}
	cmd.Flags().BoolVar(&pem, "pem", false, "print the CA certificate in PEM, and nothing else")
	cmd.Flags().BoolVar(&q.Revoked, "revoked", false, "show revoked certificates too")
	cmd.Flags().StringVar(&q.Device, "device", "", "only this device's")
	cmd.Flags().StringVar(&q.Profile, "profile", "", "only this profile: device, admin, gateway, server")
	return cmd
}

func certificateName(c api.Certificate) string {
	if c.Device != "" {
		return c.Device
	}
	return c.CommonName
}

func certificateState(c api.Certificate, now time.Time) string {
	switch {
	case !c.RevokedAt.IsZero():
		return "revoked: " + c.RevokedWhy
	case now.After(c.NotAfter):
		return "expired"
	}
	return "valid"
}

func (a *app) pkiIssueCmd() *cobra.Command {
	var req api.IssueRequest
	var out, csr string
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "issue NAME --out DIR",
		Short: "Issue an administrator's certificate, for use from another machine",
		Long: "Issue a certificate that is not a device's. An administrator's (the default) gives access to the admin\n" +
			"API on the HTTPS port: gatewayctl status --url https://HOST:8443 --cert NAME.crt --key NAME.key --ca ca.crt",
		Args: cobra.ExactArgs(1),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			req.CommonName, req.Lifetime = args[0], api.Duration(lifetime)
			if csr != "" {
				b, err := os.ReadFile(csr)
				if err != nil {
					return fmt.Errorf("read certificate signing request: %w", err)
				}
				req.CSR = string(b)
			}
			names := []string{args[0] + ".crt", "ca.crt"}
			if csr == "" {
				names = append(names, args[0]+".key")
			}
			if err := checkOut(out, names); err != nil {
				return err
			}
			cred, err := c.Issue(ctx, req)
			if err != nil {
				return err
			}
			files := []file{{args[0] + ".crt", 0o644, []byte(cred.CertificatePEM)}, {"ca.crt", 0o644, []byte(cred.CAPEM)}}
			if cred.KeyPEM != "" {
				files = append(files, file{args[0] + ".key", 0o600, []byte(cred.KeyPEM)})
			}
			return a.writeFiles(out, files, cred)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&req.Profile, "profile", "admin", "what it is for: admin or gateway")
	f.StringVar(&out, "out", ".", "directory to write to")
	f.StringVar(&csr, "csr", "", "certificate signing request in PEM; the key stays where it was made")
	f.DurationVar(&lifetime, "lifetime", 0, "how long it is valid (0: as configured)")
	return cmd
}

func (a *app) pkiRevokeCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke SERIAL|ID|DEVICE",
		Short: "Revoke a certificate, or all of a device, and cut their connections at once",
		Args:  cobra.ExactArgs(1),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			revoked, err := c.Revoke(ctx, api.RevokeRequest{Target: args[0], Reason: reason})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(api.CertificateList{Certificates: revoked})
			}
			for _, cert := range revoked {
				fmt.Fprintf(a.stdout, "revoked %s of %s (%s)\n", cert.Serial, certificateName(cert), cert.RevokedWhy)
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "unspecified", "keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn or unspecified")
	return cmd
}

// A file is one that a command writes for its user.
type file struct {
	name string
	perm os.FileMode
	data []byte
}

// checkOut reports why files of these names cannot be written to dir, before anything is issued
// for them: credentials that get lost cannot be asked for again.
func checkOut(dir string, names []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(exitFailed, "Choose another directory with --out.", "write to %s: %v", dir, err)
	}
	for _, n := range names {
		if n == "ca.crt" {
			continue // the same for all devices
		}
		if _, err := os.Lstat(filepath.Join(dir, n)); err == nil {
			return fail(exitRefused, "Move it away, or choose another directory with --out.", "%s exists already", filepath.Join(dir, n))
		}
	}
	probe, err := os.CreateTemp(dir, ".gatewayctl-*")
	if err != nil {
		return fail(exitFailed, "Choose another directory with --out.", "write to %s: %v", dir, err)
	}
	probe.Close()
	return os.Remove(probe.Name())
}

// writeFiles writes files to dir and says so.
func (a *app) writeFiles(dir string, files []file, result any) error {
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, f.perm)
		if err == nil {
			_, err = w.Write(f.data)
			if e := w.Close(); err == nil {
				err = e
			}
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if !a.json {
			fmt.Fprintln(a.stdout, path)
		}
	}
	if a.json {
		return a.printJSON(result)
	}
	return nil
}
