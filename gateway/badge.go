package gateway

import (
	"fmt"
	"html"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/looprock/megaphone/events"
)

// badgeColours are those of the statuses; what is not live is grey.
var badgeColours = map[events.Status]string{
	events.OK: "#2e7d32", events.Unknown: "#616161", events.Warning: "#a15c00", events.Critical: "#b71c1c",
}

const (
	badgeChar = 7  // pixels that a character takes, about
	badgePad  = 12 // and beside a text
	badgeText = 40 // characters of a name at most
)

// writeBadge answers with a small picture: name and status. The title says more,
// to those who hold the mouse over it or cannot see.
func writeBadge(w http.ResponseWriter, seen *sight, now time.Time) {
	phase := seen.phaseAt(now)
	name, state, colour := events.Cut(oneLine(seen.name()), badgeText), seen.status.String(), badgeColours[seen.status]
	if phase != events.Live && phase != events.Overridden {
		state, colour = state+", "+string(phase), badgeColours[events.Unknown]
	}
	left := badgeChar*utf8.RuneCountInString(name) + badgePad
	right := badgeChar*utf8.RuneCountInString(state) + badgePad
	body := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="20" role="img" aria-label="%[5]s: %[6]s"><title>%[8]s</title>`+
		`<rect width="%[2]d" height="20" fill="#333"/><rect x="%[2]d" width="%[3]d" height="20" fill="%[4]s"/>`+
		`<g fill="#fff" font-family="Verdana,sans-serif" font-size="11"><text x="6" y="14" textLength="%[9]d">%[5]s</text>`+
		`<text x="%[7]d" y="14" textLength="%[10]d">%[6]s</text></g></svg>`+"\n",
		left+right, left, right, colour, html.EscapeString(name), html.EscapeString(state), left+badgePad/2, html.EscapeString(seen.line(now)),
		left-badgePad, right-badgePad)
	h := w.Header()
	tellFreshness(h, seen, now)
	h.Set("Content-Type", "image/svg+xml")
	writeBody(w, http.StatusOK, []byte(body))
}

// getBadge answers with the badge whatever Accept says.
func (s *Server) getBadge(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		now := time.Now()
		seen, ok := s.sight(host, check, now)
		if !ok {
			return missing(host, check)
		}
		writeBadge(w, &seen, now)
		return nil
	})
}
