package appliance

import (
	"context"
	"net/http"

	"gatewayctl/gateway/api"
)

func (g *Gateway) openFirmware(context.Context) error { return nil }
func (g *Gateway) firmwareServices(*api.Services)     {}
func (g *Gateway) downloads() http.Handler            { return http.NotFoundHandler() }
