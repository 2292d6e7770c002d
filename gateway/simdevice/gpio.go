package simdevice

import (
	"context"
	"fmt"
	"time"
)

// maxPin is the last pin of an ESP32.
const maxPin = 39

// pin is one input or output.
type pin struct {
	value   int
	on, off time.Duration // of a blinking output; 0 means steady
	since   time.Time
}

// level is the pin's value at this moment.
func (p *pin) level() int {
	if p.on <= 0 || p.off <= 0 {
		return p.value
	}
	if time.Since(p.since)%(p.on+p.off) < p.on {
		return 1
	}
	return 0
}

func gpioMethods() []method {
	return []method{
		{name: "GPIO.RemoveIntHandler", args: "{pin: %d}", run: gpioRemoveHandler},
		{name: "GPIO.SetIntHandler", args: "{pin: %d, edge: %Q, pull: %Q, debounce_ms: %d, dst: %Q, method: %Q}", run: gpioSetHandler},
		{name: "GPIO.Blink", args: "{pin: %d, on_ms: %d, off_ms: %d}", run: gpioBlink},
		{name: "GPIO.Toggle", args: "{pin: %d}", run: gpioToggle},
		{name: "GPIO.Write", args: "{pin: %d, value: %d, od: %B}", run: gpioWrite},
		{name: "GPIO.ReadOut", args: "{pin: %d}", run: gpioRead},
		{name: "GPIO.Read", args: "{pin: %d}", run: gpioRead},
	}
}

// pinArgs are the parameters of all GPIO methods.
type pinArgs struct {
	Pin        *int
	Value      *int
	OnMS       int `json:"on_ms"`
	OffMS      int `json:"off_ms"`
	Edge, Pull string
}

// pin decodes the parameters and returns the pin that they name.
func (c *call) pin() (pinArgs, *pin, error) {
	var p pinArgs
	if err := c.decode(&p); err != nil {
		return p, nil, err
	}
	if p.Pin == nil {
		return p, nil, fail(400, "pin is required")
	}
	if *p.Pin < 0 || *p.Pin > maxPin {
		return p, nil, fail(400, "invalid pin")
	}
	if c.b.pins == nil {
		c.b.pins = map[int]*pin{}
	}
	if c.b.pins[*p.Pin] == nil {
		c.b.pins[*p.Pin] = &pin{}
	}
	return p, c.b.pins[*p.Pin], nil
}

func gpioRead(_ context.Context, c *call) (any, error) {
	_, pin, err := c.pin()
	if err != nil {
		return nil, err
	}
	return map[string]int{"value": pin.level()}, nil
}

func gpioWrite(_ context.Context, c *call) (any, error) {
	p, pin, err := c.pin()
	switch {
	case err != nil:
		return nil, err
	case p.Value == nil:
		return nil, fail(400, "pin and value are required")
	case *p.Value != 0 && *p.Value != 1:
		return nil, fail(400, "invalid value")
	}
	pin.value, pin.on, pin.off = *p.Value, 0, 0
	return nil, nil
}

func gpioToggle(_ context.Context, c *call) (any, error) {
	_, pin, err := c.pin()
	if err != nil {
		return nil, err
	}
	pin.value, pin.on, pin.off = 1-pin.level(), 0, 0
	return map[string]int{"value": pin.value}, nil
}

func gpioBlink(_ context.Context, c *call) (any, error) {
	p, pin, err := c.pin()
	if err != nil {
		return nil, err
	}
	if p.OnMS < 0 || p.OffMS < 0 {
		return nil, fail(400, "invalid interval")
	}
	pin.value = pin.level()
	pin.on, pin.off, pin.since = time.Duration(p.OnMS)*time.Millisecond, time.Duration(p.OffMS)*time.Millisecond, time.Now()
	return nil, nil
}

// gpioSetHandler accepts a handler; no input of the simulated device ever changes by itself, so
// it never fires.
func gpioSetHandler(_ context.Context, c *call) (any, error) {
	p, _, err := c.pin()
	switch {
	case err != nil:
		return nil, err
	case p.Edge != "pos" && p.Edge != "neg" && p.Edge != "any":
		return nil, fail(400, "invalid edge")
	case p.Pull != "" && p.Pull != "up" && p.Pull != "down":
		return nil, fail(400, "invalid pull")
	}
	return nil, nil
}

func gpioRemoveHandler(_ context.Context, c *call) (any, error) {
	_, _, err := c.pin()
	return nil, err
}

// The simulated bus has a thermometer and a clock, each with 256 registers.
const (
	i2cThermometer = 0x48
	i2cClock       = 0x68
)

func i2cMethods() []method {
	reg := func(name, args string, width int, write bool) method {
		return method{name: name, args: args, run: func(_ context.Context, c *call) (any, error) { return i2cRegister(c, width, write) }}
	}
	return []method{
		reg("I2C.WriteRegW", "{bus: %d, addr: %d, reg: %d, value: %d}", 2, true),
		reg("I2C.WriteRegB", "{bus: %d, addr: %d, reg: %d, value: %d}", 1, true),
		reg("I2C.ReadRegW", "{bus: %d, addr: %d, reg: %d}", 2, false),
		reg("I2C.ReadRegB", "{bus: %d, addr: %d, reg: %d}", 1, false),
		{name: "I2C.Scan", args: "{bus: %d}", run: func(context.Context, *call) (any, error) { return []int{i2cThermometer, i2cClock}, nil }},
	}
}

// i2cRegister reads or writes a register of one byte, or two in big-endian order.
func i2cRegister(c *call, width int, write bool) (any, error) {
	var p struct{ Addr, Reg, Value *int }
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	switch {
	case p.Addr == nil || p.Reg == nil || write && p.Value == nil:
		return nil, fail(400, "missing arguments")
	case *p.Addr != i2cThermometer && *p.Addr != i2cClock:
		return nil, fail(503, "I2C %s failed", map[bool]string{true: "write", false: "read"}[write])
	case *p.Reg < 0 || *p.Reg+width > 256 || write && (*p.Value < 0 || *p.Value >= 1<<(8*width)):
		return nil, fail(400, "invalid value")
	}
	if c.b.registers == nil {
		c.b.registers = map[string]byte{}
	}
	key := func(i int) string { return fmt.Sprint(*p.Addr, *p.Reg+i) }
	value := 0
	for i := range width {
		if write {
			c.b.registers[key(i)] = byte(*p.Value >> (8 * (width - 1 - i)))
		}
		value = value<<8 | int(c.b.registers[key(i)])
	}
	if write {
		return nil, nil
	}
	return map[string]int{"value": value}, nil
}
