package bench

import "slices"

// Median takes the median of each figure of several results of the same load. Of messages that
// were lost or repeated it takes the most. There must be one result at least.
func Median(rs []Result) Result {
	out := rs[0]
	if out.Latency != nil {
		l := *out.Latency
		out.Latency = &l
	}
	all := make([][]*float64, len(rs))
	for i := range rs {
		all[i] = rs[i].figures()
		out.Lost, out.Repeated = max(out.Lost, rs[i].Lost), max(out.Repeated, rs[i].Repeated)
	}
	for k, f := range out.figures() {
		values := make([]float64, 0, len(rs))
		for i := range rs {
			if k < len(all[i]) {
				values = append(values, *all[i][k])
			}
		}
		*f = median(values)
	}
	memory := func(get func(Result) int64) int64 {
		values := make([]float64, len(rs))
		for i, r := range rs {
			values[i] = float64(get(r))
		}
		return int64(median(values))
	}
	out.Resident = memory(func(r Result) int64 { return r.Resident })
	out.PerClient = memory(func(r Result) int64 { return r.PerClient })
	return out
}

func (r *Result) figures() []*float64 {
	f := []*float64{
		&r.Seconds, &r.Rate, &r.BrokerCPU, &r.DriverCPU, &r.Base, &r.DrainRate, &r.DrainCPU,
		&r.WriteAmplification, &r.DiskAmplification,
	}
	if l := r.Latency; l != nil {
		f = append(f, &l.P50, &l.P90, &l.P99, &l.Max, &l.Late)
	}
	return f
}

func median(v []float64) float64 {
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
