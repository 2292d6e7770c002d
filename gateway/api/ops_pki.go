package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type certificatesInput struct {
	Device  string `query:"device" maxLength:"128"`
	Profile string `query:"profile" enum:"server,device,admin,gateway"`
	Revoked bool   `query:"revoked" doc:"the revoked ones too"`
}

type revokeInput struct{ Body RevokeRequest }

type issueInput struct{ Body IssueRequest }

type pemOutput struct {
	ContentType string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	Body        []byte
}

func (a *API) registerPKI() {
	s := a.services
	read(a, operation("pki-show", http.MethodGet, "/pki", "pki", "The certificate authority and the gateway's own certificate", ""),
		s.PKI != nil, func(ctx context.Context, _ *struct{}) (PKI, error) { return s.PKI(ctx) })
	read(a, operation("certificate-list", http.MethodGet, "/pki/certificates", "pki", "Certificates on record", ""),
		s.Certificates != nil, func(ctx context.Context, in *certificatesInput) (CertificateList, error) {
			list, err := s.Certificates(ctx, CertificateQuery{Device: in.Device, Profile: in.Profile, Revoked: in.Revoked})
			return CertificateList{orEmpty(list)}, err
		})
	change(a, operation("certificate-revoke", http.MethodPost, "/pki/revoke", "pki", "Revoke a certificate, or all of a device",
		"Open connections that use them are cut. Answers with what was revoked."),
		s.Revoke != nil, func(in *revokeInput) string { return in.Body.Target + " " + in.Body.Reason },
		func(ctx context.Context, in *revokeInput) (CertificateList, error) {
			list, err := s.Revoke(ctx, in.Body.Target, in.Body.Reason)
			return CertificateList{orEmpty(list)}, err
		})
	change(a, operation("certificate-issue", http.MethodPost, "/pki/issue", "pki", "Issue a certificate that is not a device's",
		"Without a CSR the answer holds a private key, which the gateway does not keep; the answer must not be stored by anything in between."),
		s.Issue != nil, func(in *issueInput) string { return in.Body.Profile + " " + in.Body.CommonName },
		func(ctx context.Context, in *issueInput) (Credentials, error) { return s.Issue(ctx, in.Body) })

	ca := operation("ca-download", http.MethodGet, "/pki/ca.pem", "pki", "The root certificate", "What clients verify the gateway with.")
	ca.Responses = map[string]*huma.Response{"200": {
		Content: map[string]*huma.MediaType{"application/x-pem-file": {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
	register(a, ca, s.CA != nil, func(context.Context, *struct{}) (*pemOutput, error) {
		return &pemOutput{"application/x-pem-file", `attachment; filename="ca.crt"`, s.CA()}, nil
	})
}
